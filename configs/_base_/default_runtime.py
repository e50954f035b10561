# Every type is written with its prefix, so any scope would do; this one also finds mmpretrain's types without.
default_scope = 'mmpretrain'

default_hooks = dict(
    # What is logged costs the same at every iteration, and waits for the device only when the log is written.
    runtime_info=dict(type='mmat.RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100, ignore_last=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmat.CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # BN's running statistics are made equal among processes before they are saved.
    sync_buffers=dict(type='SyncBuffersHook'),
    # Refuses a network and a dataset that disagree on the number of classes.
    class_count=dict(type='mmat.ClassCountHook'),
    # Readies and validates the teacher, moves the heads' weights along their schedules; nothing in a plain run.
    distillation=dict(type='mmat.DistillationHook'),
)

# Text and JSON come with the logger; this adds TensorBoard.
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='mmpretrain.UniversalVisualizer', vis_backends=vis_backends)

# Accuracy on the training set over the epoch so far, beside the smoothed one.
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
