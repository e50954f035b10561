"""VGG for small images (Simonyan & Zisserman, ICLR 2015), as in distillation benchmarks."""
from collections import OrderedDict
from typing import Sequence

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from mmat.errors import ConfigError, UserError
from mmat.registry import MODELS

from ..options import check_number, check_out_indices
from .layers import conv_bn_relu

# Depth -> convolutions of each block. The depth counts the original's three linear layers; one remains, in the head.
ARCHS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


@MODELS.register_module()
class CIFARVGG(BaseModule):
    """VGG with BN for 32x32 images, identical to the network of RepDistiller's CIFAR-100 benchmark.

    Five blocks of 3x3 convolutions, 64, 128, 256, 512 and 512 wide, each convolution with a bias, BN and ReLU. 2x2
    max-pooling follows the first three blocks, which reduces 32x32 pixels to 4x4, and for images of 64 pixels or more
    also the fourth. Use a neck and a head for global average pooling and the linear classifier.

    Taps for attention transfer are the outputs of the five blocks, after ReLU and before pooling: stages 0 to 4, or
    ``backbone.block0`` to ``backbone.block4``. The benchmark compares all but the first.

    Args:
        depth (int): 8, 11, 13, 16 or 19.
        in_channels (int): Channels of the input image. Defaults to 3.
        out_indices (Sequence[int]): Blocks whose outputs are returned. Defaults to (4, ).
        init_cfg (dict | list, optional): Initialisation. Defaults to the benchmark's: kaiming-normal convolutions (fan
            out), BN weights 1, all biases 0.

    Raises:
        ConfigError: ``depth`` is unknown, ``in_channels`` is below 1, or an index is outside [0, 4].
        UserError: At run time, the images have less than 8 pixels on a side.

    Shapes: input (N, in_channels, H, W); output, a tuple of (N, 64, H, W), (N, 128, H/2, W/2), (N, 256, H/4, W/4),
    (N, 512, H/8, W/8), (N, 512, H/8, W/8), the last one (N, 512, H/16, W/16) if H and W are 64 or more.
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
            nearest = min(ARCHS, key=lambda each: abs(each - depth)) if isinstance(depth, (int, float)) else 8
            raise ConfigError(f'The depth of CIFARVGG must be one of {tuple(ARCHS)}, got {depth!r}. The nearest is '
                              f'{nearest}.')
        check_number(in_channels, 'in_channels', 'CIFARVGG')
        self.out_indices = check_out_indices(out_indices, 5, 'CIFARVGG')
        for name, convs, width in zip(self.stage_names, ARCHS[depth], WIDTHS):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for index in range(convs):
                layers[f'conv{index}'] = conv_bn_relu(in_channels, width, eps=1e-5)
                in_channels = width
            setattr(self, name, nn.Sequential(layers))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple:
        size = min(x.shape[-2:])
        if not torch.jit.is_tracing() and size < 8:
            raise UserError(f'CIFARVGG needs images of at least 8 pixels on each side, got {tuple(x.shape[-2:])}.')
        pooled = 4 if size >= 64 else 3
        outs = []
        for index, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outs.append(x)
            if index < pooled:
                x = self.pool(x)
        return tuple(outs)
