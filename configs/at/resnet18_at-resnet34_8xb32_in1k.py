_base_ = '../resnet/resnet18_8xb32_in1k.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    # Uses the published weights of the zoo.
    teacher=dict(model='resnet34_8xb32_in1k'),
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2), (3, 3)], weight=1e3)])
