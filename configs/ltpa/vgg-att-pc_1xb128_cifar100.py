_base_ = './vgg_1xb128_cifar100.py'

model = dict(
    backbone=dict(arch='authors', out_indices=(2, ), average_gradients=True),
    neck=dict(
        type='mmat.SpatialAttentionNeck', in_channels=(512, ), global_channels=512, compatibility='pc',
        init_cfg=[
            dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
            dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0),
        ]))
