model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmat.CIFARVGG', depth=8),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmat.LinearClsHead',
        num_classes=100,
        in_channels=512,
        cal_acc=True,
        topk=(1, ),
        init_cfg=dict(type='Normal', layer='Linear', std=0.01)))
