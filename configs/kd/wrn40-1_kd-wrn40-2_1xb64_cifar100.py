_base_ = ['../at/wrn40-1_at-wrn40-2_1xb64_cifar100.py', '../_base_/at_heads/kd.py']

model = dict(at_heads=[{{_base_.kd_head}}])
