_base_ = './resnet20_1xb64_cifar100.py'

# Four times the width; the first convolution has twice the width.
model = dict(backbone=dict(depth=8, stem_channels=32, base_channels=64), head=dict(in_channels=256))
