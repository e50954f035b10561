# The recipe of the "Learn to Pay Attention" re-implementation: 300 epochs of three passes over the data each. The rate
# is halved every 25 of its epochs.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='StepLR', by_epoch=True, step_size=3 * 25, gamma=0.5)

train_cfg = dict(by_epoch=True, max_epochs=3 * 300, val_interval=3)
val_cfg = dict()
test_cfg = dict()

# --auto-scale-lr scales the rate by the actual batch size over this one.
auto_scale_lr = dict(base_batch_size=128)
