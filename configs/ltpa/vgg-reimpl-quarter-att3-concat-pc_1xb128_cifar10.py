_base_ = './vgg-reimpl-att3-concat-pc_1xb128_cifar10.py'

# A quarter of the width and a sixteenth of the parameters, for training on a CPU and as a student.
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=(64, 128, 128), global_channels=128),
    head=dict(in_channels=(128, 128, 128)))
