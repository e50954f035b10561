"""Pieces that backbones share."""
from collections import OrderedDict
from typing import Sequence, Tuple

import torch.nn as nn
from torch import Tensor


def check_levels(out_indices: Sequence[int], owner: str) -> Tuple[int, ...]:
    """Indices of the three local features, in order and each once; none is fine too.

    Raises:
        ValueError: Anything else; ``owner`` is how the message calls the backbone.
    """
    if not isinstance(out_indices, (list, tuple)) or any(index not in (0, 1, 2) for index in out_indices):
        raise ValueError(f'out_indices of an {owner} must be among 0, 1, 2, got {out_indices!r}')
    return tuple(sorted(set(out_indices)))


def conv_bn_relu(in_channels: int, out_channels: int, eps: float) -> nn.Sequential:
    """3x3 convolution, with a bias though BN follows, as its sources have it; BN with ``eps``; ReLU."""
    # mmcv's ConvModule warns of the bias each time.
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, 3, padding=1), bn=nn.BatchNorm2d(out_channels, eps),
        activate=nn.ReLU(inplace=True)))


def average_gradient(x: Tensor, count: int) -> Tensor:
    """The same values, whose gradient, a sum over ``count`` branches, becomes their average.

    Torch's own graph sums; the hand-written backward pass of the "Learn to Pay Attention" authors averages.

    Args:
        x (Tensor): Any shape; each of ``count`` branches reads the result.
        count (int): How many; of one, or none, there is nothing to average.
    """
    if count < 2 or not x.requires_grad:
        return x
    x = x.view_as(x)
    x.register_hook(lambda gradient: gradient / count)
    return x
