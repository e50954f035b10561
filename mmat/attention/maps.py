"""Activation-based attention maps (Zagoruyko & Komodakis, ICLR 2017, section 3.1)."""
import math
from numbers import Real

import torch
from torch import Tensor

from .precision import at_least_float32

# Elements of a part that stays in a CPU's cache.
_PART = 2**19

REDUCTIONS = ('sum', 'max')


def check_map_options(p: float, reduction: str) -> None:
    """Raise ValueError where ``p`` or ``reduction`` is not one that :func:`attention_map` takes."""
    if not isinstance(p, Real) or not 1 <= p < math.inf:
        raise ValueError(f'p of an attention map must be a number >= 1, got {p!r}')
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduction of an attention map must be one of {REDUCTIONS}, got {reduction!r}')


def attention_map(features: Tensor, p: float = 2, reduction: str = 'sum') -> Tensor:
    """Map activations to spatial attention: F_sum, F_sum^p or F_max^p of the paper.

    ``F_sum^p(A) = sum_c |A_c|^p`` and ``F_max^p(A) = max_c |A_c|^p``; F_sum is ``p=1``. Absolute values come first,
    so odd and fractional ``p`` are safe. Half precision is raised to float32 before the power, also under autocast,
    so that a map of fp16 activations never overflows at ``p=2``.

    Args:
        features (Tensor): Activations of shape (N, C, H, W), any floating dtype.
        p (float): The power, at least 1. Defaults to 2.
        reduction (str): 'sum' or 'max' over channels. Defaults to 'sum'.

    Returns:
        Tensor: Maps of shape (N, H, W), non-negative, float32 (float64 where ``features`` is float64).

    Raises:
        ValueError: ``features`` is not 4-D, ``p < 1``, or ``reduction`` is unknown.
    """
    check_map_options(p, reduction)
    if features.dim() != 4:
        raise ValueError(f'attention_map takes features of shape (N, C, H, W), got {tuple(features.shape)}')
    with torch.autocast(features.device.type, enabled=False):
        if reduction == 'sum' and p == 2:
            return _SumOfSquares.apply(features)
        features = at_least_float32(features)
        if reduction == 'max':
            # |.|^p grows with |.|: one power per position instead of one per activation.
            return features.abs().amax(dim=1).pow(p)
        return features.abs().pow(p).sum(dim=1)


class _SumOfSquares(torch.autograd.Function):
    """F_sum^2, whose squares are never in memory all at once, nor a copy of half precision in float32.

    Autograd's own would keep that copy, and take a third more time for an attention transfer step's losses.
    """
    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        dtype = torch.promote_types(features.dtype, torch.float32)
        if features.device.type != 'cpu':
            return torch.linalg.vector_norm(features, dim=1, dtype=dtype).square()
        # On a CPU torch reduces fast where the channels lie together, in float32; and elsewhere what it has squared.
        together = features.stride(1) == 1
        parts = [features]
        if not together or features.dtype != dtype:
            parts = features.split(max(1, _PART // max(1, features.shape[1:].numel())))
        return torch.cat([
            torch.linalg.vector_norm(part.to(dtype), dim=1).square() if together else
            part.to(dtype).square().sum(dim=1) for part in parts
        ])

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        features, = ctx.saved_tensors
        gradient = (2 * gradient).unsqueeze(1)
        if features.dtype == torch.bfloat16:
            # It has float32's range; and multiplying what has one dtype and one layout takes a third of the time.
            layout = torch.channels_last if features.stride(1) == 1 else torch.contiguous_format
            gradient = gradient.to(features.dtype).expand_as(features).contiguous(memory_format=layout)
        return (gradient * features).to(features.dtype)
