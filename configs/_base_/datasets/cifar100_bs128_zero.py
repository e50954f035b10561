_base_ = './cifar100_bs128.py'

# Pad with zeros, like torchvision's RandomCrop.
data_preprocessor = dict(padding_mode='constant')
