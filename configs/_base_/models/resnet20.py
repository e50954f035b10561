model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmat.CIFARResNet', depth=20),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmat.LinearClsHead',
        num_classes=100,
        in_channels=64,
        cal_acc=True,
        topk=(1, ),
        # The benchmark leaves the linear layer as torch makes it.
        init_cfg=None))
