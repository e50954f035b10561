model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmat.AttentionVGG', arch='plain', out_indices=()),
    head=dict(type='mmat.ConcatClsHead', num_classes=10, in_channels=(512, ), cal_acc=True, topk=(1, )))
