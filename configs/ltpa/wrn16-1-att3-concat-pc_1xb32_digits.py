_base_ = '../wide_resnet/wrn16-2_1xb32_digits.py'

# The attention neck on another backbone, trained on data that needs no download.
model = dict(
    backbone=dict(widen_factor=1, out_indices=(0, 1, 2)),
    neck=dict(_delete_=True, type='mmat.SpatialAttentionNeck', in_channels=(16, 32, 64), global_channels=64),
    head=dict(
        _delete_=True, type='mmat.ConcatClsHead', num_classes=10, in_channels=(16, 32, 64), dropout=0., cal_acc=True,
        topk=(1, )))
custom_hooks = [dict(type='mmat.AttentionVisualizationHook', interval=5)]
