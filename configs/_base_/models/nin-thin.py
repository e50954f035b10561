model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmat.NIN', arch='thin'),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmat.LinearClsHead',
        num_classes=10,
        in_channels=84,
        cal_acc=True,
        topk=(1, ),
        init_cfg=dict(type='Kaiming', layer='Linear', mode='fan_in', nonlinearity='relu')))
