_base_ = './vgg-att3-indep-pc_1xb128_cifar100.py'

model = dict(neck=dict(compatibility='dp'))
