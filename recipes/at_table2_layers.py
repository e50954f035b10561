"""Which layers to transfer, an addition to Table 2 of the attention transfer paper: one group of layers at a time.

Teacher and "all three" are also in Table 1: use ``--work-dir work_dirs/at_table1`` to train them only once.
"""
title = 'Attention transfer, which layers: WRN-16-1 from WRN-16-2, test error on CIFAR-10'
seeds = (0, 1, 2, 3, 4)
taught = dict(column='error', teacher='wrn16-2_1xb128_cifar10')
# The paper numbers groups from 1, the configs from 0.
cells = [
    dict(row='group 1', published=8.11, config='wrn16-1_at-group0-wrn16-2_1xb128_cifar10', **taught),
    dict(row='group 2', published=7.96, config='wrn16-1_at-group1-wrn16-2_1xb128_cifar10', **taught),
    dict(row='group 3', published=7.97, config='wrn16-1_at-group2-wrn16-2_1xb128_cifar10', **taught),
    dict(row='all three', published=7.93, config='wrn16-1_at-wrn16-2_1xb128_cifar10', **taught),
]
note = ('The published numbers are from notes that were not verified against the paper, except for all three groups, '
        'whose number is in Table 2. By default the median of 5 seeds, as in Table 2. The first seed of the teacher is '
        "used; the teacher's own error is not part of the table.")
