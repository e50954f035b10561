model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmat.WideResNet', depth=16, widen_factor=1),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmat.LinearClsHead',
        num_classes=10,
        in_channels=64,
        cal_acc=True,
        topk=(1, ),
        # The attention transfer authors' initialization.
        init_cfg=dict(type='Kaiming', layer='Linear', mode='fan_in', nonlinearity='relu')))
