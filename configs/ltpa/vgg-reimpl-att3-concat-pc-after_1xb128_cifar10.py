_base_ = './vgg-reimpl-att3-concat-pc_1xb128_cifar10.py'

model = dict(backbone=dict(position='after_pool'))
