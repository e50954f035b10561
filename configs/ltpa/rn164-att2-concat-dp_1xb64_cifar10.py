_base_ = './rn164-att2-concat-pc_1xb64_cifar10.py'

model = dict(neck=dict(compatibility='dp'))
