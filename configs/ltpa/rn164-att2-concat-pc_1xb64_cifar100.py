_base_ = ['./rn164_1xb64_cifar100.py', '../_base_/init/ltpa-authors.py']

model = dict(
    backbone=dict(out_indices=(1, 2), global_branch='conv', average_gradients=True),
    neck=dict(
        type='mmat.SpatialAttentionNeck', in_channels=(128, 256), global_channels=256, compatibility='pc',
        init_cfg={{_base_.authors_init}}),
    head=dict(in_channels=(128, 256), norm=True, dropout=0.3))
