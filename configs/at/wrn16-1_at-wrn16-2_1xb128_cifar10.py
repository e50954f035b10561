_base_ = '../wide_resnet/wrn16-1_1xb128_cifar10.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    teacher=dict(
        model='wrn16-2_1xb128_cifar10',
        checkpoint='work_dirs/wrn16-2_1xb128_cifar10'),
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=1e3)])
