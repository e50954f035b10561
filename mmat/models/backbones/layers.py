"""Layers and checks shared by backbones."""
from collections import OrderedDict
from typing import Sequence, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from ..options import check_out_indices


def check_levels(out_indices: Sequence[int], owner: str) -> Tuple[int, ...]:
    """Return the sorted indices of local features without duplicates; none is valid.

    Raises:
        ConfigError: ``out_indices`` is not a list or tuple of indices in [0, 2]. The message names ``owner``.
    """
    return () if out_indices in ((), []) else tuple(sorted(set(check_out_indices(out_indices, 3, owner))))


def conv_bn_relu(in_channels: int, out_channels: int, eps: float) -> nn.Sequential:
    """Build a 3x3 convolution, BN with ``eps``, and ReLU. The convolution has a bias, as in the source networks."""
    # mmcv's ConvModule warns about a bias before BN.
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, 3, padding=1), bn=nn.BatchNorm2d(out_channels, eps),
        activate=nn.ReLU(inplace=True)))


def average_gradient(x: Tensor, count: int) -> Tensor:
    """Return the same values, and average the gradient over ``count`` branches instead of summing it.

    torch sums; the hand-written backward pass of the "Learn to Pay Attention" authors averages.

    Args:
        x (Tensor): Any shape. Each of ``count`` branches reads the result.
        count (int): Number of branches. Below 2, and in a trace, ``x`` is returned.
    """
    if count < 2 or not x.requires_grad or torch.jit.is_tracing():
        return x
    x = x.view_as(x)
    x.register_hook(lambda gradient: gradient / count)
    return x
