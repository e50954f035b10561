# No augmentation.
data_preprocessor = dict(type='mmat.BatchPreprocessor', mean=[77.7] * 3, std=[81.1] * 3)

train_dataloader = dict(
    batch_size=10,
    num_workers=0,
    dataset=dict(type='mmat.Digits', split='train', train_size=1000),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='mmat.keep_batch'))
val_dataloader = dict(
    batch_size=400,
    num_workers=0,
    dataset=dict(type='mmat.Digits', split='test'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='mmat.keep_batch'))
val_evaluator = dict(type='mmat.BatchEvaluator', metrics=dict(type='mmat.Accuracy', topk=(1, )))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
