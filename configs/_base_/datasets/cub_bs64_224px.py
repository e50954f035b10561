_base_ = './imagenet_bs32.py'

# Crop the bounding box, resize the shorter side to 256 pixels and take a crop of 224 x 224, random in training and
# central in testing. Normalization and Pillow resizing are those of the ImageNet configs.
data_preprocessor = dict(num_classes=200)

train_pipeline = [
    dict(type='mmat.LoadImage'),
    dict(type='mmat.CropBoundingBox'),
    dict(type='mmpretrain.ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='mmpretrain.RandomCrop', crop_size=224),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [
    dict(type='mmat.LoadImage'),
    dict(type='mmat.CropBoundingBox'),
    dict(type='mmpretrain.ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='mmpretrain.CenterCrop', crop_size=224),
    dict(type='mmpretrain.PackInputs'),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(type='mmat.CUB', data_root='data/CUB_200_2011', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(type='mmat.CUB', data_root='data/CUB_200_2011', split='test', pipeline=test_pipeline))
val_evaluator = dict(topk=(1, ))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
