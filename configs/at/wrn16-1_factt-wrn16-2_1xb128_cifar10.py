_base_ = ['./wrn16-1_at-wrn16-2_1xb128_cifar10.py', '../_base_/at_heads/factt.py']

model = dict(at_heads=[{{_base_.factt_head}}])
