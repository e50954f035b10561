from .attention_visualization_hook import AttentionVisualizationHook
from .checkpoint_hook import CheckpointHook
from .distillation_hook import DistillationHook

__all__ = ['AttentionVisualizationHook', 'CheckpointHook', 'DistillationHook']
