_base_ = ['../at/resnet18_at-resnet34_8xb32_in1k.py', '../_base_/at_heads/kd.py']

model = dict(at_heads=[{{_base_.kd_head}}])
