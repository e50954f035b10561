# Linear probe on handwritten digits of features learned on CIFAR-10. Only CIFAR-10 must be downloaded.
#     python tools/linear_probe.py recipes/linear_probe/cifar10_to_digits.py
network = 'vgg-reimpl-quarter-att3-concat-pc_1xb128_cifar10'
checkpoint = 'work_dirs/vgg-reimpl-quarter-att3-concat-pc_1xb128_cifar10'

train = dict(type='mmat.Digits', split='train', size=32)
test = dict(type='mmat.Digits', split='test', size=32)

# A linear support vector machine; C is chosen by cross-validation.
classifier = dict(Cs=[1e-4, 1e-3, 1e-2, 1e-1], folds=5)
