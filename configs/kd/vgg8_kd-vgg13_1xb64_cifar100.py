_base_ = ['../at/vgg8_at-vgg13_1xb64_cifar100.py', '../_base_/at_heads/kd.py']

model = dict(at_heads=[{{_base_.kd_head}}])
