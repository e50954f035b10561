_base_ = '../cifar_vgg/vgg8_1xb64_cifar100.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    teacher=dict(
        model='vgg13_1xb64_cifar100',
        checkpoint='work_dirs/vgg13_1xb64_cifar100'),
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(1, 1), (2, 2), (3, 3), (4, 4)], weight=1e3)])
