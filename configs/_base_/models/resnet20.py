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
        # RepDistiller keeps torch's default initialization of the linear layer.
        init_cfg=None))
