_base_ = '../../../configs/at/wrn16-1_at-wrn16-2_1xb10_digits.py'

custom_imports = dict(imports=['dkd'], allow_failed_imports=False)

model = dict(at_heads=[dict(type='dkd.DecoupledKDHead', T=4, alpha=1, beta=8)])
