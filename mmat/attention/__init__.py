"""The science, torch only: attention maps, input gradients, soft targets, their distances, their pictures."""
from .distance import activation_distance, attention_distance, normalize_map
from .gradient import gradient_norm, input_gradient
from .maps import attention_map
from .render import overlay_attention
from .soft_targets import soft_target_loss

__all__ = [
    'activation_distance', 'attention_distance', 'attention_map', 'gradient_norm', 'input_gradient', 'normalize_map',
    'overlay_attention', 'soft_target_loss'
]
