_base_ = [
    '../_base_/models/shufflenet-v2-1x.py',
    '../_base_/datasets/imagenet_bs32.py',
    '../_base_/schedules/imagenet_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}})
# mmpretrain's recipe for ShuffleNetV2.
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=0.5, weight_decay=4e-5), paramwise_cfg=dict(norm_decay_mult=0))
param_scheduler = [
    dict(type='ConstantLR', factor=0.1, by_epoch=False, begin=0, end=5000),
    dict(type='PolyLR', eta_min=0, by_epoch=False, begin=5000),
]
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(base_batch_size=1024)
