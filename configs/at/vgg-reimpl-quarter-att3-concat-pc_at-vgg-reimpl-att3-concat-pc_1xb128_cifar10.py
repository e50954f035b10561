_base_ = '../ltpa/vgg-reimpl-quarter-att3-concat-pc_1xb128_cifar10.py'

# Learned attention to learned attention. With beta = 1e3 the student's softmax can saturate: docs/design_choices.md.
model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    teacher=dict(
        model='vgg-reimpl-att3-concat-pc_1xb128_cifar10',
        checkpoint='work_dirs/vgg-reimpl-att3-concat-pc_1xb128_cifar10'),
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(f'neck.maps.{i}', ) * 2 for i in range(3)], weight=100.)])
