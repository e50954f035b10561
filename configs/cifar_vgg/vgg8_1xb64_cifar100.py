_base_ = [
    '../_base_/models/vgg8.py',
    '../_base_/datasets/cifar100_bs64_zero.py',
    '../_base_/schedules/cifar100_240e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}})
