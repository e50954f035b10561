_base_ = './resnet18_1xb64_indoor67.py'

model = dict(
    backbone=dict(
        depth=34,
        init_cfg=dict(checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth')))
