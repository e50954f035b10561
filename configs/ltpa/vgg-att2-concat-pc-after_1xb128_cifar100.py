_base_ = './vgg-att2-concat-pc_1xb128_cifar100.py'

model = dict(backbone=dict(position='after_pool'))
