_base_ = './nin-thin-nobn_at-nin-wide-nobn_1xb128_cifar10.py'

# beta is not published: project's choice, see configs/at/README.md.
model = dict(at_heads=[dict(type='mmat.GradientATHead', weight=0.1)])
