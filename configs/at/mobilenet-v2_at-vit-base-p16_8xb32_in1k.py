_base_ = '../mobilenet_v2/mobilenet-v2_8xb32_in1k.py'

model = dict(
    _delete_=True,
    type='mmat.Distiller',
    student={{_base_.model}},
    # From mmpretrain's zoo, with its weights. Every layer has a 14 x 14 grid of patches.
    teacher=dict(model='vit-base-p16_32xb128-mae_in1k'),
    # The student's last stages of 14 x 14 and of 7 x 7; for the latter the teacher's map is pooled.
    at_heads=[dict(type='mmat.ActivationATHead', pairs=[(4, 7), (6, 11)], weight=1e3)])
