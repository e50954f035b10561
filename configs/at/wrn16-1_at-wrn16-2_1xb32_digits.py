_base_ = '../wide_resnet/wrn16-1_1xb32_digits.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    teacher=dict(model='wrn16-2_1xb32_digits', checkpoint='work_dirs/wrn16-2_1xb32_digits'),
    # beta = 1e3 belongs to maps of 32x32 to 8x8 and long schedules; these are 16x16 to 4x4, for 120 steps.
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=50)])
