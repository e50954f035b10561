data_preprocessor = dict(
    type='mmat.BatchPreprocessor',
    # RGB on a scale of 0 to 255
    mean=[125.3, 123.0, 113.9],
    std=[63.0, 62.1, 66.7],
    padding=4,
    flip_prob=0.5)

train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    dataset=dict(type='mmat.CIFAR10', data_root='data/cifar10', split='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='mmat.keep_batch'))
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    dataset=dict(type='mmat.CIFAR10', data_root='data/cifar10', split='test'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='mmat.keep_batch'))
val_evaluator = dict(type='mmat.BatchEvaluator', metrics=dict(type='mmat.Accuracy', topk=(1, )))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
