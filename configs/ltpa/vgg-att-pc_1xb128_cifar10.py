_base_ = ['./vgg_1xb128_cifar10.py', '../_base_/init/ltpa-authors.py']

model = dict(
    backbone=dict(arch='authors', out_indices=(2, ), average_gradients=True),
    neck=dict(
        type='mmat.SpatialAttentionNeck', in_channels=(512, ), global_channels=512, compatibility='pc',
        init_cfg={{_base_.authors_init}}))
