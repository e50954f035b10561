# The "Learn to Pay Attention" authors' recipe for VGG. Their script halves the rate one epoch earlier each time.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=1.0, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='StepLR', by_epoch=True, step_size=25, gamma=0.5)

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# --auto-scale-lr scales the rate by the actual batch size over this one.
auto_scale_lr = dict(base_batch_size=128)
