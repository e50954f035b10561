_base_ = './cifar10_bs128.py'

# Crops of images padded with black, as torchvision's RandomCrop makes them.
data_preprocessor = dict(padding_mode='constant')
