"""Table 1 of the attention transfer paper: comparison of methods on CIFAR-10."""
title = 'Attention transfer, Table 1: test error on CIFAR-10'
seeds = (0, 1, 2, 3, 4)
cells = []

row, teacher = 'NIN-thin from NIN-wide', 'nin-wide_1xb128_cifar10'
cells += [
    dict(row=row, column='student', published=9.38, config='nin-thin_1xb128_cifar10'),
    dict(row=row, column='AT', published=8.93, config='nin-thin_at-nin-wide_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='F-ActT', published=9.05, config='nin-thin_factt-nin-wide_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='KD', published=8.55, config='nin-thin_kd-nin-wide_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='AT+KD', published=8.33, config='nin-thin_at-kd-nin-wide_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='teacher', published=7.28, config=teacher),
]

row, teacher = 'WRN-16-1 from WRN-16-2', 'wrn16-2_1xb128_cifar10'
cells += [
    dict(row=row, column='student', published=8.77, config='wrn16-1_1xb128_cifar10'),
    dict(row=row, column='AT', published=7.93, config='wrn16-1_at-wrn16-2_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='F-ActT', published=8.51, config='wrn16-1_factt-wrn16-2_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='KD', published=7.41, config='wrn16-1_kd-wrn16-2_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='AT+KD', published=7.51, config='wrn16-1_at-kd-wrn16-2_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='teacher', published=6.31, config=teacher),
]

row, teacher = 'WRN-16-1 from WRN-40-1', 'wrn40-1_1xb128_cifar10'
cells += [
    dict(row=row, column='student', published=8.77, config='wrn16-1_1xb128_cifar10'),
    dict(row=row, column='AT', published=8.25, config='wrn16-1_at-wrn40-1_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='F-ActT', published=8.62, config='wrn16-1_factt-wrn40-1_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='KD', published=8.39, config='wrn16-1_kd-wrn40-1_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='AT+KD', published=8.01, config='wrn16-1_at-kd-wrn40-1_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='teacher', published=6.58, config=teacher),
]

row, teacher = 'WRN-16-2 from WRN-40-2', 'wrn40-2_1xb128_cifar10'
cells += [
    dict(row=row, column='student', published=6.31, config='wrn16-2_1xb128_cifar10'),
    dict(row=row, column='AT', published=5.85, config='wrn16-2_at-wrn40-2_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='F-ActT', published=6.24, config='wrn16-2_factt-wrn40-2_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='KD', published=6.08, config='wrn16-2_kd-wrn40-2_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='AT+KD', published=5.71, config='wrn16-2_at-kd-wrn40-2_1xb128_cifar10', teacher=teacher),
    dict(row=row, column='teacher', published=5.23, config=teacher),
]

note = ('By default the median of 5 seeds, as in the paper. The paper does not say which seed of the teacher is used; '
        'here it is the first. It is not settled whether its KD column was computed with the KL divergence used here '
        'or with one averaged over the classes, a fifth of it. The widths of NIN-thin, beta of F-ActT, and the decay '
        "of beta in F-ActT and AT+KD are not published; they are mmat's choices (docs/design_choices.md).")
