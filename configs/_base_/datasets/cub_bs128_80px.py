_base_ = './cub_bs64_224px.py'

# Bounding boxes resized to 80 x 80 pixels, with random flips only.
train_pipeline = [
    dict(type='mmat.LoadImage'),
    dict(type='mmat.CropBoundingBox'),
    dict(type='mmpretrain.Resize', scale=(80, 80)),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [
    dict(type='mmat.LoadImage'),
    dict(type='mmat.CropBoundingBox'),
    dict(type='mmpretrain.Resize', scale=(80, 80)),
    dict(type='mmpretrain.PackInputs'),
]

train_dataloader = dict(batch_size=128, drop_last=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
