"""Table 3 of the attention transfer paper: gradient-based attention transfer, in networks without BN."""
title = 'Attention transfer, Table 3: gradient-based methods, NIN-thin without BN, test error on CIFAR-10'
seeds = (0, 1, 2)
taught = dict(column='error', teacher='nin-wide-nobn_1xb128_cifar10')
cells = [
    dict(row='no transfer', column='error', published=13.5, config='nin-thin-nobn_1xb128_cifar10'),
    dict(row='min-l2', column='error', published=12.5, config='nin-thin-nobn_minl2_1xb128_cifar10'),
    dict(row='gradient-based AT', published=12.1, config='nin-thin-nobn_gradat-nin-wide-nobn_1xb128_cifar10', **taught),
    dict(row='KD', published=12.1, config='nin-thin-nobn_kd-nin-wide-nobn_1xb128_cifar10', **taught),
    dict(row='symmetry norm', column='error', published=11.8, config='nin-thin-nobn_flipsym_1xb128_cifar10'),
    dict(row='activation-based AT', published=11.2, config='nin-thin-nobn_at-nin-wide-nobn_1xb128_cifar10', **taught),
]
note = ('By default the median of 3 seeds. That the paper reports single runs, and its setting (no BN, flips only, no '
        'weight decay, no ReLU before pooling), are from notes that were not verified against the paper. Networks, '
        "learning rate and beta = 0.1 of the three methods that penalise gradients are mmat's choices; beta was only "
        'tried in runs of 3 epochs (docs/design_choices.md). The teacher, NIN-wide without BN, is not part of the '
        'table because its error is not published.')
