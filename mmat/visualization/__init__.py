from .attention_grid import draw_attention_grid, render_attention_grid, short_names

__all__ = ['draw_attention_grid', 'render_attention_grid', 'short_names']
