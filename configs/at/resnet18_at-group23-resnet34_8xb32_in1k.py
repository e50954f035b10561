_base_ = './resnet18_at-resnet34_8xb32_in1k.py'

# The last two groups, as in the paper. The authors' code uses all four.
model = dict(at_heads=[dict(type='mmat.ActivationATHead', pairs=[(2, 2), (3, 3)], weight=1e3)])
