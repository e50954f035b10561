"""Learned spatial attention (Jetley et al., "Learn to Pay Attention", ICLR 2018, sections 3.1 and 3.2)."""
from typing import Optional

import torch
from torch import Tensor

from .precision import at_least_float32

COMPATIBILITIES = ('pc', 'dp')
NORMALIZATIONS = ('softmax', 'sigmoid')


def parametrised_compatibility(local: Tensor, descriptor: Tensor, weight: Tensor,
                               bias: Optional[Tensor] = None) -> Tensor:
    """Score each position of a local feature against a global one: ``c_i = <u, l_i + g> (+ b)``, the paper's pc.

    Computed as ``<u, l_i> + <u, g>``, so that ``l + g`` is never held in memory, and added in float32, so that a large
    second term does not drown the first in half precision. The second term is the same for every position: under a
    softmax over positions it cancels, and ``g`` neither moves the attention nor gets a gradient from it.

    Args:
        local (Tensor): Local features ``l``, shape (N, C, H, W).
        descriptor (Tensor): Global feature ``g``, shape (N, C).
        weight (Tensor): ``u``, shape (C, ).
        bias (Tensor, optional): ``b``, shape (1, ) or (). Defaults to None, 0.

    Returns:
        Tensor: Scores of shape (N, H, W), float32 (float64 where ``local`` is).
    """
    scores = at_least_float32(torch.einsum('nchw,c->nhw', local, weight))
    scores = scores + at_least_float32(torch.einsum('nc,c->n', descriptor, weight))[:, None, None]
    return scores if bias is None else scores + bias


def dot_product_compatibility(local: Tensor, descriptor: Tensor) -> Tensor:
    """Score each position of a local feature against a global one: ``c_i = <l_i, g>``, the paper's dp.

    Args:
        local (Tensor): Local features ``l``, shape (N, C, H, W).
        descriptor (Tensor): Global feature ``g``, shape (N, C).

    Returns:
        Tensor: Scores of shape (N, H, W), float32 (float64 where ``local`` is).
    """
    # The mean of the products, which half precision holds where it does not hold their sum.
    channels = local.shape[1]
    return at_least_float32(torch.einsum('nchw,nc->nhw', local, descriptor / channels)) * channels


def normalize_scores(scores: Tensor, normalization: str = 'softmax') -> Tensor:
    """Turn compatibility scores into attention.

    Args:
        scores (Tensor): Shape (N, H, W).
        normalization (str): 'softmax' over the H*W positions, so that they sum to one, or 'sigmoid', each position on
            its own. Defaults to 'softmax'.

    Returns:
        Tensor: Attention maps of shape (N, H, W), in (0, 1), float32 (float64 where ``scores`` are).

    Raises:
        ValueError: ``normalization`` is unknown.
    """
    check_normalization(normalization)
    scores = at_least_float32(scores)  # which autocast leaves as it is
    return scores.flatten(1).softmax(1).view_as(scores) if normalization == 'softmax' else scores.sigmoid()


def attend(local: Tensor, attention: Tensor, normalization: str = 'softmax') -> Tensor:
    """Pool a local feature under attention: ``g_a = sum_i a_i l_i``, divided by H*W where the ``a_i`` are sigmoids.

    Args:
        local (Tensor): Local features ``l``, shape (N, C, H, W).
        attention (Tensor): Maps of :func:`normalize_scores`, shape (N, H, W).
        normalization (str): The maps' normalisation. Defaults to 'softmax'.

    Returns:
        Tensor: Shape (N, C), of the dtype of ``local``, or autocast's.

    Raises:
        ValueError: ``normalization`` is unknown.
    """
    check_normalization(normalization)
    if normalization == 'sigmoid':
        attention = attention / attention[0].numel()
    return torch.einsum('nchw,nhw->nc', local, attention.to(local.dtype))


def check_normalization(normalization: str) -> None:
    """Raise ValueError where ``normalization`` is not one that :func:`normalize_scores` takes."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(f'normalization of attention must be one of {NORMALIZATIONS}, got {normalization!r}')
