optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[18, 36, 48], gamma=0.2)

# An epoch has five steps, so validating after each one would take longer than training.
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=10)
val_cfg = dict()
test_cfg = dict()

# --auto-scale-lr scales the rate by the actual batch size over this one.
auto_scale_lr = dict(base_batch_size=10)
