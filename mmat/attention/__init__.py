"""The science, torch only: attention maps, their distance, their pictures."""
from .distance import attention_distance, normalize_map
from .maps import attention_map
from .render import overlay_attention

__all__ = ['attention_distance', 'attention_map', 'normalize_map', 'overlay_attention']
