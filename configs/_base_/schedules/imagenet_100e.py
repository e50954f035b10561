# mmpretrain's recipe for ResNet. The attention transfer authors' script differs in details: docs/design_choices.md.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1)

train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# 8 GPUs x 32. --auto-scale-lr scales the rate by the actual batch size over this one.
auto_scale_lr = dict(base_batch_size=256)
