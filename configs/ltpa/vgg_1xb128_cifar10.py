_base_ = [
    '../_base_/models/vgg.py',
    '../_base_/datasets/cifar10_bs128_flip.py',
    '../_base_/schedules/ltpa_300e.py',
    '../_base_/ltpa_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}})
