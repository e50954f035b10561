# Linear probe on Caltech-101 of features learned on CIFAR-100, as in the paper's cross-domain table. Unpack caltech-101
# in data/caltech-101, and add the split files described in the documentation of mmpretrain's Caltech101.
#     python tools/linear_probe.py recipes/linear_probe/cifar100_to_caltech101.py
network = 'vgg-att2-concat-pc_1xb128_cifar100'
checkpoint = 'work_dirs/vgg-att2-concat-pc_1xb128_cifar100'

pipeline = [
    dict(type='mmat.LoadImage'),
    dict(type='mmpretrain.Resize', scale=(32, 32)),
    dict(type='mmpretrain.PackInputs'),
]
train = dict(type='mmpretrain.Caltech101', data_root='data/caltech-101', split='train', pipeline=pipeline)
test = dict(type='mmpretrain.Caltech101', data_root='data/caltech-101', split='test', pipeline=pipeline)
# Images are read as BGR; mean and std are CIFAR-100's.
data_preprocessor = dict(
    type='mmpretrain.ClsDataPreprocessor', mean=[129.3105, 124.1085, 112.404], std=[68.2125, 65.4075, 70.4055],
    to_rgb=True)
num_workers = 4

classifier = dict(Cs=[1e-4, 1e-3, 1e-2, 1e-1], folds=5)
