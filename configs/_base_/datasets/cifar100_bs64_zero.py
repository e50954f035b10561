_base_ = './cifar100_bs128_zero.py'

train_dataloader = dict(batch_size=64)
