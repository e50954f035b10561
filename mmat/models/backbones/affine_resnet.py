"""Pre-activation ResNet with affine layers instead of BN, the format of the authors' released ImageNet student."""
from collections import OrderedDict
from typing import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmat.errors import ConfigError
from mmat.registry import MODELS

from ..options import check_number, check_out_indices

# Depth -> blocks of each group.
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class Affine(BaseModule):
    """Channel-wise ``x * a + b`` of (N, C, H, W), initialised to the identity: folded BN in eval mode."""

    def __init__(self, channels: int):
        super().__init__()
        self.a = nn.Parameter(torch.ones(channels))
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.a[:, None, None] + self.b[:, None, None]


class AffineBlock(BaseModule):
    """Pre-activation basic block with affine layers.

    ``o = relu(affine0(x)); z = conv1(relu(affine1(conv0(o)))); out = z + (conv_dim(o) if the widths differ else x)``.
    If the input is already ``activated``, there is no ``affine0`` and ``o = x``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activated: bool):
        super().__init__()
        self.affine0 = None if activated else Affine(in_channels)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.affine1 = Affine(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.conv_dim = None
        if in_channels != out_channels:
            self.conv_dim = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = x if self.affine0 is None else F.relu(self.affine0(x), inplace=True)
        out = self.conv1(F.relu(self.affine1(self.conv0(activated)), inplace=True))
        return out + (x if self.conv_dim is None else self.conv_dim(activated))


@MODELS.register_module()
class AffineResNet(BaseModule):
    """Pre-activation ResNet of depth 18 or 34 for ImageNet without BN, the authors' ``resnet-18-at-export``.

    Source: ``resnet-18-at-export.ipynb`` of github.com/szagoruyko/functional-zoo, the ResNet-18 trained with the
    attention of a ResNet-34 (published error 29.44 / 10.12). The stem is a 7x7 convolution of stride 2, affine, ReLU
    and 3x3 max-pooling of stride 2. Four groups of pre-activation basic blocks follow, 64, 128, 256 and 512 wide, at
    strides 1, 2, 2, 2, then affine and ReLU. No convolution has a bias. Module names follow the authors' parameter
    names (``group1.block0.conv_dim``). Use a neck and a head for global average pooling and the linear classifier.

    The network can be trained from scratch. Initialisation and depth 34 are this project's choice.

    Taps for attention transfer are the raw outputs of the four groups, after the addition: stages 0, 1, 2, 3, or
    ``backbone.group0`` to ``backbone.group3``.

    Args:
        depth (int): 18 or 34. Defaults to 18.
        base_channels (int): Width of the stem and the first group. Defaults to 64.
        in_channels (int): Channels of the input image. Defaults to 3.
        out_indices (Sequence[int]): Groups whose outputs are returned. The last group's is returned after affine
            and ReLU, the input of the classifier; the others are raw. Defaults to (3, ).
        init_cfg (dict | list, optional): Initialisation. Defaults to kaiming-normal convolutions (fan in).

    Raises:
        ConfigError: The depth is not 18 or 34, ``base_channels < 1``, or an index is outside [0, 3].

    Shapes: input (N, in_channels, H, W); output, a tuple of (N, C, H/4, W/4), (N, 2C, H/8, W/8), (N, 4C, H/16, W/16),
    (N, 8C, H/32, W/32), where C is ``base_channels``.
    """

    stage_names = ('group0', 'group1', 'group2', 'group3')

    def __init__(self,
                 depth: int = 18,
                 base_channels: int = 64,
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (3, ),
                 init_cfg=dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='relu')):
        super().__init__(init_cfg)
        if depth not in _BLOCKS:
            raise ConfigError(f'The depth of AffineResNet must be 18 or 34, got {depth!r}.')
        check_number(base_channels, 'base_channels', 'AffineResNet')
        self.out_indices = check_out_indices(out_indices, 4, 'AffineResNet')
        self.conv0 = nn.Conv2d(in_channels, base_channels, 7, 2, 3, bias=False)
        self.affine0 = Affine(base_channels)
        width = base_channels
        for index, (name, count) in enumerate(zip(self.stage_names, _BLOCKS[depth])):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for b in range(count):
                out_width = base_channels * 2**index
                first = b == 0
                blocks[f'block{b}'] = AffineBlock(
                    width, out_width, 2 if index > 0 and first else 1, activated=index == 0 and first)
                width = out_width
            setattr(self, name, nn.Sequential(blocks))
        self.affine_last = Affine(width)

    def forward(self, x: Tensor) -> tuple:
        x = F.max_pool2d(F.relu(self.affine0(self.conv0(x)), inplace=True), 3, 2, 1)
        outs = []
        for index, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outs.append(F.relu(self.affine_last(x), inplace=True) if index == 3 else x)
        return tuple(outs)
