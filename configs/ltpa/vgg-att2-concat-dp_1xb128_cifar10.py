_base_ = './vgg-att2-concat-pc_1xb128_cifar10.py'

model = dict(neck=dict(compatibility='dp'))
