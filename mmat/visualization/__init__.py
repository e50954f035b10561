from .attention_grid import draw_attention_grid, render_attention_grid

__all__ = ['draw_attention_grid', 'render_attention_grid']
