from .base import AttentionWeights, BaseAttentionNeck
from .grid_attention_neck import GridAttentionNeck
from .spatial_attention_neck import SpatialAttentionNeck

__all__ = ['AttentionWeights', 'BaseAttentionNeck', 'GridAttentionNeck', 'SpatialAttentionNeck']
