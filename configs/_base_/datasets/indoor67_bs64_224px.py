_base_ = './cub_bs64_224px.py'

# The CUB pipeline without the bounding boxes.
data_preprocessor = dict(num_classes=67)

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

train_dataloader = dict(dataset=dict(type='mmat.IndoorScenes67', data_root='data/indoor67', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type='mmat.IndoorScenes67', data_root='data/indoor67', pipeline=test_pipeline))
test_dataloader = val_dataloader
