_base_ = '../wide_resnet/wrn16-1_1xb10_digits.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    teacher=dict(model='wrn16-2_1xb32_digits', checkpoint='work_dirs/wrn16-2_1xb32_digits'),
    # Chosen from 20, 50 and 100: maps are 16x16 to 4x4 here, and 1e3 is for 32x32 to 8x8 and 200 epochs.
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=50)])
