_base_ = './rn164-att2-indep-pc_1xb64_cifar10.py'

model = dict(neck=dict(compatibility='dp'))
