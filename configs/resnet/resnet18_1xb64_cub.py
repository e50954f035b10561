_base_ = [
    '../_base_/models/resnet18.py',
    '../_base_/datasets/cub_bs64_224px.py',
    '../_base_/schedules/finetune_60e.py',
    '../_base_/default_runtime.py',
]

# From ImageNet; batch normalisation is fixed, and the stem and the first group are frozen.
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/resnet18_8xb32_in1k_20210831-fbbb1da6.pth',
            prefix='backbone')),
    head=dict(num_classes=200, topk=(1, )))
