from .checkpoint_hook import CheckpointHook
from .distillation_hook import DistillationHook

__all__ = ['CheckpointHook', 'DistillationHook']
