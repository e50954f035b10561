from .file_backend import AtomicBackend
from .history import ScalarHistory
from .hooks import AttentionVisualizationHook, CheckpointHook, ClassCountHook, DistillationHook, RuntimeInfoHook
from .optim_wrapper import AutocastOptimWrapper

__all__ = [
    'AtomicBackend', 'AttentionVisualizationHook', 'AutocastOptimWrapper', 'CheckpointHook', 'ClassCountHook',
    'DistillationHook', 'RuntimeInfoHook', 'ScalarHistory'
]
