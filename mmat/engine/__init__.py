from .file_backend import AtomicBackend
from .hooks import AttentionVisualizationHook, CheckpointHook, DistillationHook
from .optim_wrapper import AutocastOptimWrapper

__all__ = [
    'AtomicBackend', 'AttentionVisualizationHook', 'AutocastOptimWrapper', 'CheckpointHook', 'DistillationHook'
]
