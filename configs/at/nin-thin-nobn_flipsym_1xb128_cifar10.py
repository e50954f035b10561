_base_ = '../nin/nin-thin-nobn_1xb128_cifar10.py'

# beta is not published: project's choice, see configs/at/README.md.
model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    at_heads=[dict(type='mmat.FlipSymmetryHead', weight=0.1)])
