_base_ = ['../at/resnet32_at-resnet110_1xb64_cifar100.py', '../_base_/at_heads/kd.py']

model = dict(at_heads=[{{_base_.kd_head}}])
