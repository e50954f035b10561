model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmat.AttentionResNet', depth=164, out_indices=(), global_branch='pool'),
    # The plain network, whose backbone ends with BN and ReLU.
    head=dict(
        type='mmat.ConcatClsHead', num_classes=10, in_channels=(256, ), norm=False, dropout=0., cal_acc=True,
        topk=(1, )))
