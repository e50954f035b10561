_base_ = './vgg-att3-concat-pc_1xb128_cifar100.py'

model = dict(neck=dict(compatibility='dp'))
