_base_ = './cifar100_bs128.py'

# The "Learn to Pay Attention" authors use random flips only and drop the last, incomplete batch.
data_preprocessor = dict(padding=0)
train_dataloader = dict(drop_last=True)
