from .file_backend import AtomicBackend
from .hooks import CheckpointHook, DistillationHook
from .optim_wrapper import AutocastOptimWrapper

__all__ = ['AtomicBackend', 'AutocastOptimWrapper', 'CheckpointHook', 'DistillationHook']
