# The attention transfer authors' ImageNet recipe, and mmpretrain's of ResNet.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1)

train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The batch that the rate is for, 8 GPUs x 32: with --auto-scale-lr it follows another.
auto_scale_lr = dict(base_batch_size=256)
