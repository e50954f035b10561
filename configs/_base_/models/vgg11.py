model = dict(
    type='mmpretrain.ImageClassifier',
    # mmpretrain's backbone includes the classifier of three linear layers.
    backbone=dict(type='mmpretrain.VGG', depth=11, num_classes=1000),
    head=dict(
        type='mmpretrain.ClsHead', loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0), cal_acc=True,
        topk=(1, 5)))
