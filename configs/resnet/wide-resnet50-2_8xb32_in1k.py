_base_ = './resnet18_8xb32_in1k.py'

# A ResNet-50 with inner convolutions of twice the width.
model = dict(
    backbone=dict(depth=50, stem_channels=64, base_channels=128, expansion=2), head=dict(in_channels=2048))
