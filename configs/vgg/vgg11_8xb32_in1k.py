_base_ = [
    '../_base_/models/vgg11.py',
    '../_base_/datasets/imagenet_bs32.py',
    '../_base_/schedules/imagenet_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}})
# A rate of 0.1 is too high without BN.
optim_wrapper = dict(optimizer=dict(lr=0.01))
