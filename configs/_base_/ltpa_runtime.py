_base_ = './default_runtime.py'

# Draw the attention maps on test images, for TensorBoard and into the work directory.
custom_hooks = [dict(type='mmat.AttentionVisualizationHook', interval=10)]
