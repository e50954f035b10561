_base_ = [
    '../_base_/models/nin-thin.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar10_200e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}})
