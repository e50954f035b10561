_base_ = [
    '../_base_/models/wrn16-1.py',
    '../_base_/datasets/digits_bs10.py',
    '../_base_/schedules/digits_60e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}})
# Five images of each digit, so that the student alone has room to improve.
train_dataloader = dict(dataset=dict(train_size=50))
