"""Activation-based attention maps (Zagoruyko & Komodakis, ICLR 2017, section 3.1)."""
import math
from numbers import Real

import torch
from torch import Tensor

from .precision import at_least_float32

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
        features = at_least_float32(features)
        if reduction == 'max':
            # |.|^p grows with |.|: one power per position instead of one per activation.
            return features.abs().amax(dim=1).pow(p)
        if p == 2:
            return features.square().sum(dim=1)
        return features.abs().pow(p).sum(dim=1)
