_base_ = [
    '../_base_/models/wrn16-1.py',
    '../_base_/datasets/cifar100_bs64_zero.py',
    '../_base_/schedules/cifar100_240e.py',
    '../_base_/default_runtime.py',
]

# RepDistiller's initialization, not the attention transfer authors'.
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(
        widen_factor=2,
        init_cfg=[
            dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
            dict(type='Constant', layer='_BatchNorm', val=1, bias=0),
        ]),
    head=dict(
        num_classes=100,
        in_channels=128,
        # torch's default weights, uniform within 1 / sqrt(fan in), and zero biases.
        init_cfg=dict(
            type='Kaiming', layer='Linear', a=5**0.5, mode='fan_in', nonlinearity='leaky_relu',
            distribution='uniform')))
