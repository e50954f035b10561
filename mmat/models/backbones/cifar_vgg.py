"""VGG for small images (Simonyan & Zisserman, ICLR 2015), as distillation benchmarks have it."""
from collections import OrderedDict
from typing import Sequence

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from mmat.registry import MODELS

from ..options import check_number
from .layers import conv_bn_relu

# Convolutions of each block. The depth counts the three linear layers of the original, of which one is left.
ARCHS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


@MODELS.register_module()
class CIFARVGG(BaseModule):
    """VGG with BN for 32x32 images, exactly the network of RepDistiller's CIFAR-100 benchmark.

    Five blocks of 3x3 convolutions, 64, 128, 256, 512 and 512 wide, each convolution with a bias, BN and ReLU. The
    first three blocks are followed by 2x2 max-pooling, so that of 32x32 pixels 4x4 are left; from 64 pixels on the
    fourth is, too. Global average pooling and the linear classifier are neck and head.

    Taps for attention transfer are the outputs of the five blocks, after ReLU and before pooling: stages 0 to 4, or
    ``backbone.block0`` to ``backbone.block4``. The benchmark compares all but the first.

    Args:
        depth (int): 8, 11, 13, 16 or 19.
        in_channels (int): Channels of the input image. Defaults to 3.
        out_indices (Sequence[int]): Blocks whose outputs are returned. Defaults to (4, ).
        init_cfg (dict | list, optional): Initialisation. Defaults to the benchmark's: kaiming-normal convolutions (fan
            out), BN weights 1, all biases 0.

    Raises:
        ValueError: An unknown ``depth``, ``in_channels`` below 1, or an index outside [0, 4]; at run time, images of
            less than 8 pixels a side.

    Shapes: input (N, in_channels, H, W); outputs, a tuple, (N, 64, H, W), (N, 128, H/2, W/2), (N, 256, H/4, W/4),
    (N, 512, H/8, W/8), (N, 512, H/8, W/8), the last (N, 512, H/16, W/16) where H and W are 64 or more.
    """

    stage_names = ('block0', 'block1', 'block2', 'block3', 'block4')

    def __init__(self,
                 depth: int,
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (4, ),
                 init_cfg=[
                     dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
                     dict(type='Constant', layer='_BatchNorm', val=1, bias=0),
                 ]):
        super().__init__(init_cfg)
        if not isinstance(depth, int) or depth not in ARCHS:
            near = min(ARCHS, key=lambda each: abs(each - depth)) if isinstance(depth, (int, float)) else 8
            raise ValueError(f'depth of a CIFARVGG must be one of {tuple(ARCHS)}, got {depth!r}; the nearest is {near}')
        check_number(in_channels, 'in_channels', 'CIFARVGG')
        if isinstance(out_indices, int) or not out_indices or any(i not in range(5) for i in out_indices):
            raise ValueError(f'out_indices of a CIFARVGG must be among 0, 1, 2, 3, 4, got {out_indices!r}')
        self.out_indices = tuple(sorted(out_indices))
        for name, convs, width in zip(self.stage_names, ARCHS[depth], WIDTHS):
            layers = OrderedDict()
            for index in range(convs):
                layers[f'conv{index}'] = conv_bn_relu(in_channels, width, eps=1e-5)
                in_channels = width
            setattr(self, name, nn.Sequential(layers))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple:
        size = min(x.shape[-2:])
        if size < 8:
            raise ValueError(f'a CIFARVGG takes images of at least 8 pixels on each side, got {tuple(x.shape[-2:])}')
        pooled = 4 if size >= 64 else 3
        outs = []
        for index, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outs.append(x)
            if index < pooled:
                x = self.pool(x)
        return tuple(outs)
