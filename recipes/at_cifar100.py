"""KD and AT on RepDistiller's CIFAR-100 benchmark, for its pairs of similar networks."""
title = 'Attention transfer on CIFAR-100: test accuracy'
measure = 'accuracy'
seeds = (0, 1, 2)
cells = []

row, teacher = 'WRN-16-2 from WRN-40-2', 'wrn40-2_1xb64_cifar100'
cells += [
    dict(row=row, column='student', published=73.26, config='wrn16-2_1xb64_cifar100'),
    dict(row=row, column='KD', published=74.92, config='wrn16-2_kd-wrn40-2_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='AT', published=74.08, config='wrn16-2_at-wrn40-2_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='teacher', published=75.61, config=teacher, seeds=(0, )),
]

row, teacher = 'WRN-40-1 from WRN-40-2', 'wrn40-2_1xb64_cifar100'
cells += [
    dict(row=row, column='student', published=71.98, config='wrn40-1_1xb64_cifar100'),
    dict(row=row, column='KD', published=73.54, config='wrn40-1_kd-wrn40-2_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='AT', published=72.77, config='wrn40-1_at-wrn40-2_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='teacher', published=75.61, config=teacher, seeds=(0, )),
]

row, teacher = 'resnet20 from resnet56', 'resnet56_1xb64_cifar100'
cells += [
    dict(row=row, column='student', published=69.06, config='resnet20_1xb64_cifar100'),
    dict(row=row, column='KD', published=70.66, config='resnet20_kd-resnet56_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='AT', published=70.55, config='resnet20_at-resnet56_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='teacher', published=72.34, config=teacher, seeds=(0, )),
]

row, teacher = 'resnet32 from resnet110', 'resnet110_1xb64_cifar100'
cells += [
    dict(row=row, column='student', published=71.14, config='resnet32_1xb64_cifar100'),
    dict(row=row, column='KD', published=73.08, config='resnet32_kd-resnet110_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='AT', published=72.31, config='resnet32_at-resnet110_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='teacher', published=74.31, config=teacher, seeds=(0, )),
]

row, teacher = 'resnet8x4 from resnet32x4', 'resnet32x4_1xb64_cifar100'
cells += [
    dict(row=row, column='student', published=72.50, config='resnet8x4_1xb64_cifar100'),
    dict(row=row, column='KD', published=73.33, config='resnet8x4_kd-resnet32x4_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='AT', published=73.44, config='resnet8x4_at-resnet32x4_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='teacher', published=79.42, config=teacher, seeds=(0, )),
]

row, teacher = 'vgg8 from vgg13', 'vgg13_1xb64_cifar100'
cells += [
    dict(row=row, column='student', published=70.36, config='vgg8_1xb64_cifar100'),
    dict(row=row, column='KD', published=72.98, config='vgg8_kd-vgg13_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='AT', published=71.43, config='vgg8_at-vgg13_1xb64_cifar100', teacher=teacher),
    dict(row=row, column='teacher', published=74.64, config=teacher, seeds=(0, )),
]

note = ('Accuracy: higher is better. Published numbers: README of RepDistiller, which does not say how many runs they '
        'are from. By default the median of 3 seeds; for each teacher, the single run that teaches. The pairs resnet20 '
        'from resnet110, and those of different architectures, have no configs.')
