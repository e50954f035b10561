_base_ = './vgg-att-dp_1xb128_cifar100.py'

model = dict(backbone=dict(position='after_pool'))
