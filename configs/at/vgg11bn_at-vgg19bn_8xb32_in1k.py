_base_ = '../vgg/vgg11bn_8xb32_in1k.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    # Uses the published weights of the zoo.
    teacher=dict(model='vgg19bn_8xb32_in1k'),
    # The five convolutional blocks, max-pooling included.
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)], weight=1e3)])
