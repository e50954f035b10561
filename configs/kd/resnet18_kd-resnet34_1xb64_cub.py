_base_ = ['../at/resnet18_at-resnet34_1xb64_cub.py', '../_base_/at_heads/kd.py']

model = dict(at_heads=[{{_base_.kd_head}}])
