_base_ = './nin-thin-nobn_1xb128_cifar10.py'

model = dict(backbone=dict(arch='wide'), head=dict(in_channels=192))
