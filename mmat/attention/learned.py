"""Learned spatial attention (Jetley et al., "Learn to Pay Attention", ICLR 2018, sections 3.1 and 3.2)."""
from typing import Optional

import torch
from torch import Tensor

from mmat.errors import UserError

from .precision import at_least_float32

COMPATIBILITIES = ('pc', 'dp')
NORMALIZATIONS = ('softmax', 'sigmoid')


def parametrised_compatibility(local: Tensor, descriptor: Tensor, weight: Tensor,
                               bias: Optional[Tensor] = None) -> Tensor:
    """Score each position of a local feature by the paper's pc: ``c_i = <u, l_i + g> (+ b)``.

    Computed as ``<u, l_i> + <u, g>``, so that ``l + g`` is never stored. The sum is taken in float32, because in half
    precision a large second term would absorb the first. The second term is the same for every position: under a
    softmax over positions it cancels, so that ``g`` neither changes the attention nor receives a gradient from it.

    Args:
        local (Tensor): Local features ``l``, shape (N, C, H, W).
        descriptor (Tensor): Global feature ``g``, shape (N, C).
        weight (Tensor): ``u``, shape (C, ).
        bias (Tensor, optional): ``b``, shape (1, ) or (). Defaults to None, no bias.

    Returns:
        Tensor: Scores of shape (N, H, W), float32, or float64 if ``local`` is.
    """
    scores = at_least_float32(torch.einsum('nchw,c->nhw', local, weight))
    scores = scores + at_least_float32(torch.einsum('nc,c->n', descriptor, weight))[:, None, None]
    return scores if bias is None else scores + bias


def dot_product_compatibility(local: Tensor, descriptor: Tensor) -> Tensor:
    """Score each position of a local feature by the paper's dp: ``c_i = <l_i, g>``.

    Args:
        local (Tensor): Local features ``l``, shape (N, C, H, W).
        descriptor (Tensor): Global feature ``g``, shape (N, C).

    Returns:
        Tensor: Scores of shape (N, H, W), float32, or float64 if ``local`` is.
    """
    # Half precision holds the mean of the products but may not hold their sum.
    channels = local.shape[1]
    return at_least_float32(torch.einsum('nchw,nc->nhw', local, descriptor / channels)) * channels


def normalize_scores(scores: Tensor, normalization: str = 'softmax') -> Tensor:
    """Normalise compatibility scores to attention maps.

    Args:
        scores (Tensor): Shape (N, H, W).
        normalization (str): 'softmax' over the H*W positions, which sum to one, or 'sigmoid' of each position. Defaults
            to 'softmax'.

    Returns:
        Tensor: Attention maps of shape (N, H, W), in (0, 1), float32, or float64 if ``scores`` are.

    Raises:
        UserError: ``normalization`` is unknown.
    """
    check_normalization(normalization)
    scores = at_least_float32(scores)  # autocast does not lower softmax and sigmoid
    return scores.flatten(1).softmax(1).view_as(scores) if normalization == 'softmax' else scores.sigmoid()


def attend(local: Tensor, attention: Tensor, normalization: str = 'softmax') -> Tensor:
    """Pool a local feature with attention weights: ``g_a = sum_i a_i l_i``, divided by H*W for sigmoids.

    Args:
        local (Tensor): Local features ``l``, shape (N, C, H, W).
        attention (Tensor): Maps from :func:`normalize_scores`, shape (N, H, W).
        normalization (str): Normalisation of the maps. Defaults to 'softmax'.

    Returns:
        Tensor: Shape (N, C), of the dtype of ``local``, or of autocast.

    Raises:
        UserError: ``normalization`` is unknown.
    """
    check_normalization(normalization)
    if normalization == 'sigmoid':
        attention = attention / attention[0].numel()
    return torch.einsum('nchw,nhw->nc', local, attention.to(local.dtype))


def check_normalization(normalization: str) -> None:
    """Check the option of :func:`normalize_scores`.

    Raises:
        UserError: ``normalization`` is unknown.
    """
    if normalization not in NORMALIZATIONS:
        raise UserError(f'The normalization of attention must be one of {NORMALIZATIONS}, got {normalization!r}.')
