_base_ = '../cifar_resnet/resnet20_1xb64_cifar100.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    teacher=dict(
        model='resnet56_1xb64_cifar100',
        checkpoint='work_dirs/resnet56_1xb64_cifar100'),
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=1e3)])
