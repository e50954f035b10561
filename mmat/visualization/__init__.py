from .attention_grid import draw_attention_grid, render_attention_grid, short_names
from .photographs import Photograph, photograph_of, take_photograph, with_photographs

__all__ = [
    'Photograph', 'draw_attention_grid', 'photograph_of', 'render_attention_grid', 'short_names', 'take_photograph',
    'with_photographs'
]
