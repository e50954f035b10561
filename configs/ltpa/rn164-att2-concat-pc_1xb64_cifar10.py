_base_ = './rn164_1xb64_cifar10.py'

model = dict(
    backbone=dict(out_indices=(1, 2), global_branch='conv', average_gradients=True),
    neck=dict(
        type='mmat.SpatialAttentionNeck', in_channels=(128, 256), global_channels=256, compatibility='pc',
        init_cfg=[
            dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
            dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0),
        ]),
    head=dict(in_channels=(128, 256), norm=True, dropout=0.3))
