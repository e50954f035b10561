model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.ShuffleNetV2', widen_factor=1.0),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmat.LinearClsHead', num_classes=1000, in_channels=1024, cal_acc=True, topk=(1, 5)))
