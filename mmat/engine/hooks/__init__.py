from .attention_visualization_hook import AttentionVisualizationHook
from .checkpoint_hook import CheckpointHook
from .class_count_hook import ClassCountHook
from .distillation_hook import DistillationHook
from .runtime_info_hook import RuntimeInfoHook

__all__ = ['AttentionVisualizationHook', 'CheckpointHook', 'ClassCountHook', 'DistillationHook', 'RuntimeInfoHook']
