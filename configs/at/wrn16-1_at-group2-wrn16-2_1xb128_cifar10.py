_base_ = './wrn16-1_at-wrn16-2_1xb128_cifar10.py'

model = dict(at_heads=[dict(type='mmat.ActivationATHead', pairs=[(2, 2)], weight=1e3)])
