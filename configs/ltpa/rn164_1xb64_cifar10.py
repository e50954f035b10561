_base_ = [
    '../_base_/models/rn164.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar10_200e.py',
    '../_base_/ltpa_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}})
train_dataloader = dict(batch_size=64, drop_last=True)
auto_scale_lr = dict(base_batch_size=64)
optim_wrapper = dict(optimizer=dict(nesterov=True))
