_base_ = './vgg8_1xb64_cifar100.py'

model = dict(backbone=dict(depth=13))
