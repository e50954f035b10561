# The shorter side at 256 pixels, and of that 224 x 224: at random in training, the middle in tests. Resized by Pillow,
# as the networks' ImageNet images were.
data_preprocessor = dict(
    type='mmpretrain.ClsDataPreprocessor', num_classes=67, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
    to_rgb=True)

train_pipeline = [
    dict(type='mmat.LoadImage'),
    dict(type='mmpretrain.ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='mmpretrain.RandomCrop', crop_size=224),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [
    dict(type='mmat.LoadImage'),
    dict(type='mmpretrain.ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='mmpretrain.CenterCrop', crop_size=224),
    dict(type='mmpretrain.PackInputs'),
]

# The workers are new in every epoch: a run that is resumed draws the crops that it would have drawn.
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(type='mmat.IndoorScenes67', data_root='data/indoor67', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(type='mmat.IndoorScenes67', data_root='data/indoor67', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    persistent_workers=True)
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1, ))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
