model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.MobileNetV2', widen_factor=1.0),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmat.LinearClsHead', num_classes=1000, in_channels=1280, cal_acc=True, topk=(1, 5)))
