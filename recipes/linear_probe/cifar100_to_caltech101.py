# Features learned on CIFAR-100, tried on Caltech-101, as in the paper's cross-domain table. Bring the data: the archive
# caltech-101 unpacked in data/caltech-101, with the split files that mmpretrain's Caltech101 documents.
#     python tools/linear_probe.py recipes/linear_probe/cifar100_to_caltech101.py
network = 'vgg-att2-concat-pc_1xb128_cifar100'
checkpoint = 'work_dirs/vgg-att2-concat-pc_1xb128_cifar100'

pipeline = [
    dict(type='mmpretrain.LoadImageFromFile'),
    dict(type='mmpretrain.Resize', scale=(32, 32)),
    dict(type='mmpretrain.PackInputs'),
]
train = dict(type='mmpretrain.Caltech101', data_root='data/caltech-101', split='train', pipeline=pipeline)
test = dict(type='mmpretrain.Caltech101', data_root='data/caltech-101', split='test', pipeline=pipeline)
# Images read from files are BGR; the mean and deviation are those of CIFAR-100.
data_preprocessor = dict(
    type='mmpretrain.ClsDataPreprocessor', mean=[129.3105, 124.1085, 112.404], std=[68.2125, 65.4075, 70.4055],
    to_rgb=True)
num_workers = 4

classifier = dict(Cs=[1e-4, 1e-3, 1e-2, 1e-1], folds=5)
