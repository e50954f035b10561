_base_ = [
    '../_base_/models/wrn16-2.py',
    '../_base_/datasets/digits_bs32.py',
    '../_base_/schedules/digits_60e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}})
# A teacher of all 1,000 training images, twenty times its student's, for a sixth of the epochs.
param_scheduler = dict(milestones=[3, 6, 8])
train_cfg = dict(max_epochs=10, val_interval=5)
