_base_ = '../nin/nin-thin-nobn_1xb128_cifar10.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    teacher=dict(
        model='nin-wide-nobn_1xb128_cifar10',
        checkpoint='work_dirs/nin-wide-nobn_1xb128_cifar10'),
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=1e3)])
