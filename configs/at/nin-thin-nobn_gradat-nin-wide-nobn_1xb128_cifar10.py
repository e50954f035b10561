_base_ = './nin-thin-nobn_at-nin-wide-nobn_1xb128_cifar10.py'

# The paper does not give beta. The project's choice: docs/design_choices.md.
model = dict(at_heads=[dict(type='mmat.GradientATHead', weight=0.1)])
