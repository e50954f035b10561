_base_ = './default_runtime.py'

# What the network looks at, drawn on test images for TensorBoard and in the work directory.
custom_hooks = [dict(type='mmat.AttentionVisualizationHook', interval=10)]
