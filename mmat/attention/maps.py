"""Activation-based attention maps (Zagoruyko & Komodakis, ICLR 2017, section 3.1)."""
import math
from numbers import Real

import torch
from torch import Tensor

from mmat.errors import UserError

from .precision import at_least_float32

# Elements of a chunk that fits a CPU's cache.
_CHUNK = 2**19

REDUCTIONS = ('sum', 'max')


def check_map_options(p: float, reduction: str) -> None:
    """Check the options of :func:`attention_map`.

    Raises:
        UserError: ``p < 1`` or ``reduction`` is unknown.
    """
    if not isinstance(p, Real) or not 1 <= p < math.inf:
        raise UserError(f'The power p of an attention map must be a number >= 1, got {p!r}.')
    if reduction not in REDUCTIONS:
        raise UserError(f'The reduction of an attention map must be one of {REDUCTIONS}, got {reduction!r}.')


def attention_map(features: Tensor, p: float = 2, reduction: str = 'sum') -> Tensor:
    """Compute the spatial attention maps of activations: F_sum, F_sum^p or F_max^p of the paper.

    ``F_sum^p(A) = sum_c |A_c|^p`` and ``F_max^p(A) = max_c |A_c|^p``; F_sum is ``p=1``. The power is taken of absolute
    values, so odd and fractional ``p`` are valid. Half precision is converted to float32 before the power, also under
    autocast, so that maps of fp16 activations cannot overflow at ``p=2``.

    Args:
        features (Tensor): Activations of shape (N, C, H, W), any floating dtype.
        p (float): Power, at least 1. Defaults to 2.
        reduction (str): 'sum' or 'max' over channels. Defaults to 'sum'.

    Returns:
        Tensor: Non-negative maps of shape (N, H, W), float32, or float64 if ``features`` are.

    Raises:
        UserError: ``features`` is not 4-D, ``p < 1``, or ``reduction`` is unknown.
    """
    check_map_options(p, reduction)
    if features.dim() != 4:
        raise UserError(f'An attention map needs features of shape (N, C, H, W), got {tuple(features.shape)}.')
    with torch.autocast(features.device.type, enabled=False):
        if reduction == 'sum' and p == 2:
            return _SumOfSquares.apply(features)
        features = at_least_float32(features)
        if reduction == 'max':
            # |.|^p is monotonic: one power per position instead of one per activation.
            return features.abs().amax(dim=1).pow(p)
        return features.abs().pow(p).sum(dim=1)


class _SumOfSquares(torch.autograd.Function):
    """F_sum^2 without storing all squares, or a float32 copy of half-precision activations.

    Plain autograd keeps that copy and takes a third more time for the losses of an attention transfer step.
    """
    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        dtype = torch.promote_types(features.dtype, torch.float32)
        if features.device.type != 'cpu':
            return torch.linalg.vector_norm(features, dim=1, dtype=dtype).square()
        # On a CPU, vector_norm is fast on contiguous channels in float32; otherwise, square and sum is faster.
        channels_last = features.stride(1) == 1
        chunks = [features]
        if not channels_last or features.dtype != dtype:
            chunks = features.split(max(1, _CHUNK // max(1, features.shape[1:].numel())))
        return torch.cat([
            torch.linalg.vector_norm(chunk.to(dtype), dim=1).square() if channels_last else
            chunk.to(dtype).square().sum(dim=1) for chunk in chunks
        ])

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        features, = ctx.saved_tensors
        gradient = (2 * gradient).unsqueeze(1)
        if features.dtype == torch.bfloat16:
            # bfloat16 has float32's range, and operands of equal dtype and layout multiply three times as fast.
            layout = torch.channels_last if features.stride(1) == 1 else torch.contiguous_format
            gradient = gradient.to(features.dtype).expand_as(features).contiguous(memory_format=layout)
        return (gradient * features).to(features.dtype)
