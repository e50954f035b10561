"""Table 2 of the attention transfer paper: attention mapping functions.

Student, teacher and F_sum^2 are also in Table 1: use ``--work-dir work_dirs/at_table1`` to train them only once.
"""
title = 'Attention transfer, Table 2: mapping functions, WRN-16-1 from WRN-16-2, test error on CIFAR-10'
seeds = (0, 1, 2, 3, 4)
taught = dict(column='error', teacher='wrn16-2_1xb128_cifar10')
cells = [
    dict(row='no attention transfer', column='error', published=8.77, config='wrn16-1_1xb128_cifar10'),
    dict(row='F_sum', published=7.99, config='wrn16-1_at-fsum1-wrn16-2_1xb128_cifar10', **taught),
    dict(row='F_sum^2', published=7.93, config='wrn16-1_at-wrn16-2_1xb128_cifar10', **taught),
    dict(row='F_sum^4', published=8.09, config='wrn16-1_at-fsum4-wrn16-2_1xb128_cifar10', **taught),
    dict(row='F_max^1', published=8.08, config='wrn16-1_at-fmax1-wrn16-2_1xb128_cifar10', **taught),
]
note = ('By default the median of 5 seeds, as in the paper. The paper does not say which seed of the teacher is used; '
        "here it is the first. The teacher's own error is not part of the table.")
