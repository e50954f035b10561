_base_ = '../resnet/resnet18_1xb64_cub.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    teacher=dict(
        model='resnet34_1xb64_cub',
        checkpoint='work_dirs/resnet34_1xb64_cub'),
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(2, 2), (3, 3)], weight=1e3)])
