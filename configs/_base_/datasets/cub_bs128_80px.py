# Birds cut out by their bounding boxes, 80 x 80 pixels, flips only.
data_preprocessor = dict(
    type='mmpretrain.ClsDataPreprocessor', num_classes=200, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
    to_rgb=True)

train_pipeline = [
    dict(type='mmpretrain.LoadImageFromFile'),
    dict(type='mmat.CropBoundingBox'),
    dict(type='mmpretrain.Resize', scale=(80, 80)),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [
    dict(type='mmpretrain.LoadImageFromFile'),
    dict(type='mmat.CropBoundingBox'),
    dict(type='mmpretrain.Resize', scale=(80, 80)),
    dict(type='mmpretrain.PackInputs'),
]

# The workers are new in every epoch: a run that is resumed draws the flips that it would have drawn.
train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    dataset=dict(type='mmat.CUB', data_root='data/CUB_200_2011', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    dataset=dict(type='mmat.CUB', data_root='data/CUB_200_2011', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    persistent_workers=True)
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1, ))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
