_base_ = './wrn16-1_1xb10_digits.py'

model = dict(backbone=dict(widen_factor=2), head=dict(in_channels=128))
# All 1,000 training images, twenty times as many as the student, in about as many steps.
train_dataloader = dict(batch_size=32, dataset=dict(train_size=1000))
auto_scale_lr = dict(base_batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = dict(milestones=[3, 6, 8])
train_cfg = dict(max_epochs=10, val_interval=5)
