_base_ = './cifar100_bs128.py'

# The "Learn to Pay Attention" authors' augmentation: flips only; and they leave out the last, short batch.
data_preprocessor = dict(padding=0)
train_dataloader = dict(drop_last=True)
