_base_ = './wrn16-2_1xb64_cifar100.py'

model = dict(backbone=dict(depth=40))
