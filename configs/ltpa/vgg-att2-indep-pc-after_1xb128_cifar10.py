_base_ = './vgg-att2-indep-pc_1xb128_cifar10.py'

model = dict(backbone=dict(position='after_pool'))
