_base_ = './wrn16-1_at-wrn16-2_1xb128_cifar10.py'

# The student's groups match the teacher's learned attention maps. For beta see docs/design_choices.md.
model = dict(
    teacher=dict(
        model='vgg-reimpl-quarter-att3-concat-pc_1xb128_cifar10',
        checkpoint='work_dirs/vgg-reimpl-quarter-att3-concat-pc_1xb128_cifar10'),
    at_heads=[
        dict(
            type='mmat.ActivationATHead',
            pairs=[(0, 'neck.maps.0'), (1, 'neck.maps.1'), (2, 'neck.maps.2')],
            weight=100.)
    ])
