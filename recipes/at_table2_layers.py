"""Beside Table 2 of the attention transfer paper: one group of the networks at a time.

The teacher and all three groups are Table 1's: with ``--work-dir work_dirs/at_table1`` they are not trained a second
time.
"""
title = 'Attention transfer, which layers: WRN-16-1 from WRN-16-2, test error on CIFAR-10'
seeds = (0, 1, 2, 3, 4)
taught = dict(column='error', teacher='wrn16-2_1xb128_cifar10')
# The paper counts groups from 1, the code from 0.
cells = [
    dict(row='group 1', published=8.11, config='wrn16-1_at-group0-wrn16-2_1xb128_cifar10', **taught),
    dict(row='group 2', published=7.96, config='wrn16-1_at-group1-wrn16-2_1xb128_cifar10', **taught),
    dict(row='group 3', published=7.97, config='wrn16-1_at-group2-wrn16-2_1xb128_cifar10', **taught),
    dict(row='all three', published=7.93, config='wrn16-1_at-wrn16-2_1xb128_cifar10', **taught),
]
note = ('The published numbers are from notes on the paper and were not checked there again, but for that of all '
        'three groups, which is in Table 2. By default the median of 5 seeds, as in Table 2. The teacher, that of the'
        ' first seed, is no row of the table.')
