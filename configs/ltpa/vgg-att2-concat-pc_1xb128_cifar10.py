_base_ = './vgg-att-pc_1xb128_cifar10.py'

model = dict(
    backbone=dict(out_indices=(1, 2)),
    neck=dict(in_channels=(512, 512)),
    head=dict(in_channels=(512, 512)))
