_base_ = './rn164-att2-concat-pc_1xb64_cifar100.py'

model = dict(neck=dict(compatibility='dp'))
