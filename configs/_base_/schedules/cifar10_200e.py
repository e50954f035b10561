# The attention transfer authors' CIFAR recipe, without the momentum reset at each drop: docs/design_choices.md.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[60, 120, 160], gamma=0.2)

train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# --auto-scale-lr scales the rate by the actual batch size over this one.
auto_scale_lr = dict(base_batch_size=128)
