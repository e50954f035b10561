"""Pieces of the "Learn to Pay Attention" backbones."""
from collections import OrderedDict

import torch.nn as nn
from torch import Tensor


def conv_bn_relu(in_channels: int, out_channels: int, eps: float) -> nn.Sequential:
    """3x3 convolution, with a bias though BN follows, as both sources have it; BN with ``eps``; ReLU."""
    # mmcv's ConvModule warns of the bias each time.
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, 3, padding=1), bn=nn.BatchNorm2d(out_channels, eps),
        activate=nn.ReLU(inplace=True)))


def average_gradient(x: Tensor, count: int) -> Tensor:
    """The same values, whose gradient, a sum over ``count`` branches, becomes their average.

    Torch's own graph sums; the hand-written backward pass of the "Learn to Pay Attention" authors averages.

    Args:
        x (Tensor): Any shape; each of ``count`` branches reads the result.
        count (int): How many.
    """
    if count == 1 or not x.requires_grad:
        return x
    x = x.view_as(x)
    x.register_hook(lambda gradient: gradient / count)
    return x
