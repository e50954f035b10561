_base_ = './resnet20_1xb64_cifar100.py'

model = dict(backbone=dict(depth=32))
