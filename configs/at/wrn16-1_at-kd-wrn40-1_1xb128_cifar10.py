_base_ = [
    './wrn16-1_at-wrn40-1_1xb128_cifar10.py',
    '../_base_/at_heads/at-decaying.py',
    '../_base_/at_heads/kd.py',
]

model = dict(at_heads=[{{_base_.decaying_at_head}}, {{_base_.kd_head}}])
