model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmat.AffineResNet', depth=18),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmat.LinearClsHead', num_classes=1000, in_channels=512, cal_acc=True, topk=(1, 5)))
