_base_ = './wrn16-1_1xb128_cifar10.py'

model = dict(backbone=dict(depth=40))
