_base_ = './vgg-att-dp_1xb128_cifar10.py'

model = dict(backbone=dict(position='after_pool'))
