_base_ = '../cifar_resnet/resnet32_1xb64_cifar100.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    teacher=dict(
        model='resnet110_1xb64_cifar100',
        checkpoint='work_dirs/resnet110_1xb64_cifar100'),
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=1e3)])
