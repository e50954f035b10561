from .attention_heads import ConcatClsHead, IndependentClsHead
from .linear_head import LinearClsHead

__all__ = ['ConcatClsHead', 'IndependentClsHead', 'LinearClsHead']
