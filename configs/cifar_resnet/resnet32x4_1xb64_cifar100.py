_base_ = './resnet8x4_1xb64_cifar100.py'

model = dict(backbone=dict(depth=32))
