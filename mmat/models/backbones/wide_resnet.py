"""Wide residual networks for small images (Zagoruyko & Komodakis, BMVC 2016), as in the attention transfer code."""
from collections import OrderedDict
from typing import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule

from mmat.registry import MODELS

from ..options import check_depth, check_number, check_out_indices


class PreActBlock(BaseModule):
    """Pre-activation basic block.

    ``o1 = relu(bn0(x)); z = conv1(relu(bn1(conv0(o1)))); out = z + (convdim(o1) if the widths differ else x)``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.bn0 = nn.BatchNorm2d(in_channels)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.convdim = None
        if in_channels != out_channels:
            self.convdim = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = F.relu(self.bn0(x), inplace=True)
        out = self.conv0(activated)
        out = self.conv1(F.relu(self.bn1(out), inplace=True))
        return out + (x if self.convdim is None else self.convdim(activated))


@MODELS.register_module()
class WideResNet(BaseModule):
    """WRN-d-k for 32x32 images, identical to the network of the attention transfer authors' CIFAR code.

    A 3x3 convolution to 16 channels for any ``k``, three groups of ``n = (d - 4) / 6`` pre-activation basic blocks
    of widths 16k, 32k, 64k and strides 1, 2, 2, then BN and ReLU. Initialised like the authors' code: kaiming-normal
    convolutions (fan in), BN weights uniform in [0, 1), BN biases 0. Module names follow the authors' parameter names
    (``group0.block0.conv0``). Use a neck and a head for global average pooling and the linear classifier.

    Taps for attention transfer are the raw outputs of the three groups, after the addition and before BN:
    stages 0, 1, 2, or ``backbone.group0`` to ``backbone.group2``.

    Args:
        depth (int): d = 6n + 4: 10, 16, 22, 28, 40, ...
        widen_factor (int): k, at least 1. Defaults to 1.
        in_channels (int): Channels of the input image. Defaults to 3.
        out_indices (Sequence[int]): Groups whose outputs are returned. The last group's is returned after BN and
            ReLU, the input of the classifier; the others are raw. Defaults to (2, ).
        init_cfg (dict | list, optional): Initialisation. Defaults to the authors'.

    Raises:
        ConfigError: ``depth`` is not 6n + 4, ``widen_factor < 1``, or an index is outside [0, 2].

    Shapes: input (N, in_channels, H, W); output, a tuple of (N, 16k, H, W), (N, 32k, H/2, W/2), (N, 64k, H/4, W/4).
    """

    stage_names = ('group0', 'group1', 'group2')

    def __init__(self,
                 depth: int,
                 widen_factor: int = 1,
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (2, ),
                 init_cfg=[
                     dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='relu'),
                     dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0),
                 ]):
        super().__init__(init_cfg)
        count = check_depth(depth, 6, 4, 'WideResNet')
        check_number(widen_factor, 'widen_factor', 'WideResNet')
        self.out_indices = check_out_indices(out_indices, 3, 'WideResNet')
        self.conv0 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        width = 16
        for index, name in enumerate(self.stage_names):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for b in range(count):
                out_width = 16 * widen_factor * 2**index
                blocks[f'block{b}'] = PreActBlock(width, out_width, 2 if index > 0 and b == 0 else 1)
                width = out_width
            setattr(self, name, nn.Sequential(blocks))
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> tuple:
        x = self.conv0(x)
        outs = []
        for index, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outs.append(F.relu(self.bn(x), inplace=True) if index == 2 else x)
        return tuple(outs)
