# The "Learn to Pay Attention" re-implementation's recipe: 300 epochs, each of three passes over the data; the rate is
# halved every 25 of them.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='StepLR', by_epoch=True, step_size=3 * 25, gamma=0.5)

train_cfg = dict(by_epoch=True, max_epochs=3 * 300, val_interval=3)
val_cfg = dict()
test_cfg = dict()

# The batch that the rate is for: with --auto-scale-lr it follows another.
auto_scale_lr = dict(base_batch_size=128)
