_base_ = './resnet18_at-resnet34_8xb32_in1k.py'

# The paper's; its authors' code has all four groups.
model = dict(at_heads=[dict(type='mmat.ActivationATHead', pairs=[(2, 2), (3, 3)], weight=1e3)])
