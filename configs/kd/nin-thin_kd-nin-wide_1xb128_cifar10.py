_base_ = ['../at/nin-thin_at-nin-wide_1xb128_cifar10.py', '../_base_/at_heads/kd.py']

model = dict(at_heads=[{{_base_.kd_head}}])
