_base_ = './cifar10_bs128.py'

# RGB on a scale of 0 to 255: 255 times (0.5071, 0.4867, 0.4408) and (0.2675, 0.2565, 0.2761).
data_preprocessor = dict(mean=[129.3105, 124.1085, 112.404], std=[68.2125, 65.4075, 70.4055])
train_dataloader = dict(dataset=dict(type='mmat.CIFAR100', data_root='data/cifar100'))
val_dataloader = dict(dataset=dict(type='mmat.CIFAR100', data_root='data/cifar100'))
test_dataloader = dict(dataset=dict(type='mmat.CIFAR100', data_root='data/cifar100'))
