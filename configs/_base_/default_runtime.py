# Types carry their package prefix, so any scope works. With this one mmpretrain's types need no prefix.
default_scope = 'mmpretrain'

default_hooks = dict(
    # Logging values has a constant cost per iteration and waits for the device only when the log is written.
    runtime_info=dict(type='mmat.RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100, ignore_last=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmat.CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Averages the running statistics of BN over processes before they are saved.
    sync_buffers=dict(type='SyncBuffersHook'),
    # Raises an error if datasets, network or checkpoints differ in their classes, or a data loader is empty.
    class_count=dict(type='mmat.ClassCountHook'),
    # Loads and validates the teacher and updates scheduled head weights. Does nothing without a distiller.
    distillation=dict(type='mmat.DistillationHook'),
)

# The logger writes text and JSON; this adds TensorBoard.
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='mmpretrain.UniversalVisualizer', vis_backends=vis_backends)

# Also log the training accuracy averaged over the current epoch.
log_processor = dict(
    custom_cfg=[
        dict(data_src='accuracy_top-1', log_name='accuracy_epoch', method_name='mean', window_size='epoch')
    ])

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=None, deterministic=False)
log_level = 'INFO'
load_from = None
resume = False
