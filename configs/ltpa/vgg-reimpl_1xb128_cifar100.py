_base_ = [
    '../_base_/models/vgg.py',
    '../_base_/datasets/cifar100_bs128_zero.py',
    '../_base_/schedules/ltpa-reimpl_300e.py',
    '../_base_/ltpa_runtime.py',
]

model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(arch='reimplementation'),
    head=dict(
        num_classes=100, norm=False, dropout=0.,
        init_cfg=dict(type='Xavier', layer='Linear', gain=2**0.5, distribution='uniform')))
