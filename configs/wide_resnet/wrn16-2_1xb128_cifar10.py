_base_ = './wrn16-1_1xb128_cifar10.py'

model = dict(backbone=dict(widen_factor=2), head=dict(in_channels=128))
