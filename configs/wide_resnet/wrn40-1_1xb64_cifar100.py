_base_ = './wrn16-2_1xb64_cifar100.py'

model = dict(backbone=dict(depth=40, widen_factor=1), head=dict(in_channels=64))
