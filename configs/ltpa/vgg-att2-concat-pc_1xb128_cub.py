_base_ = [
    '../_base_/models/vgg.py',
    '../_base_/datasets/cub_bs128_80px.py',
    '../_base_/ltpa_runtime.py',
]

# The authors fine-tune the CIFAR-100 network. For 80 pixels it pools 5 x 5 after the first block.
load_from = 'work_dirs/vgg-att2-concat-pc_1xb128_cifar100'
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(arch='authors', out_indices=(1, 2), image_size=80, first_pool=5, average_gradients=True),
    neck=dict(type='mmat.SpatialAttentionNeck', in_channels=(512, 512), global_channels=512, compatibility='pc'),
    head=dict(num_classes=200, in_channels=(512, 512)))

# The authors' schedule doubles the rate twice, then halves it every 30 epochs.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60], gamma=2),
    dict(type='MultiStepLR', by_epoch=True, milestones=list(range(90, 301, 30)), gamma=0.5),
]
train_cfg = dict(by_epoch=True, max_epochs=320, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
