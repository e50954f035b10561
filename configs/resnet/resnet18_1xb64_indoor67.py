_base_ = [
    '../_base_/models/resnet18-finetuned.py',
    '../_base_/datasets/indoor67_bs64_224px.py',
    '../_base_/schedules/finetune_60e.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor={{_base_.data_preprocessor}}, head=dict(num_classes=67))
