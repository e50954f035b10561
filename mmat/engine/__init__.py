from .file_backend import AtomicBackend
from .hooks import AttentionVisualizationHook, CheckpointHook, ClassCountHook, DistillationHook
from .optim_wrapper import AutocastOptimWrapper

__all__ = [
    'AtomicBackend', 'AttentionVisualizationHook', 'AutocastOptimWrapper', 'CheckpointHook', 'ClassCountHook',
    'DistillationHook'
]
