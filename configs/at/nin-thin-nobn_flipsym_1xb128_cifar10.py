_base_ = '../nin/nin-thin-nobn_1xb128_cifar10.py'

# The paper does not give beta. The project's choice: docs/design_choices.md.
model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    at_heads=[dict(type='mmat.FlipSymmetryHead', weight=0.1)])
