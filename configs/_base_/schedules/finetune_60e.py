# The attention transfer paper does not say how it fine-tuned: project's choice. A tenth of the rate of training from
# scratch, and the weight decay that the networks were trained with on ImageNet.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 45], gamma=0.1)

train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# The batch that the rate is for: with --auto-scale-lr it follows another.
auto_scale_lr = dict(base_batch_size=64)
