_base_ = [
    '../_base_/models/wrn16-2.py',
    '../_base_/datasets/digits_bs10.py',
    '../_base_/schedules/digits_60e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}})
# All 1,000 training images, twenty times the student's, in as many steps.
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = dict(milestones=[3, 6, 8])
train_cfg = dict(max_epochs=10, val_interval=5)
