_base_ = './vgg-reimpl_1xb128_cifar10.py'

model = dict(
    backbone=dict(out_indices=(0, 1, 2)),
    neck=dict(
        type='mmat.SpatialAttentionNeck', in_channels=(256, 512, 512), global_channels=512, compatibility='pc',
        bias=False, project='local'),
    head=dict(in_channels=(512, 512, 512)))
