"""The formulas as pure tensor functions: attention maps, learned attention, input gradients, soft targets, distances.
"""
from .distance import activation_distance, attention_distance, normalize_map
from .gradient import gradient_norm, input_gradient
from .learned import attend, dot_product_compatibility, normalize_scores, parametrised_compatibility
from .maps import attention_map
from .render import overlay_attention
from .soft_targets import soft_target_loss
from .tokens import tokens_to_features

__all__ = [
    'activation_distance', 'attend', 'attention_distance', 'attention_map', 'dot_product_compatibility',
    'gradient_norm', 'input_gradient', 'normalize_map', 'normalize_scores', 'overlay_attention',
    'parametrised_compatibility', 'soft_target_loss', 'tokens_to_features'
]
