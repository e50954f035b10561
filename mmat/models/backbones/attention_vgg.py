"""VGG with local features and a global vector (Jetley et al., "Learn to Pay Attention", ICLR 2018)."""
from collections import OrderedDict
from typing import Any, Dict, Sequence

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from mmat.errors import ConfigError, UserError
from mmat.registry import MODELS

from ..options import check_number
from .layers import average_gradient, check_levels, conv_bn_relu

# Convolutions of each block as (width, dropout rate), and 'M' for 2x2 max-pooling. Each block is followed by pooling.
# _GLOBAL is the global branch after the last block.
_LOCAL = [[(64, .3), (64, 0), (128, .4), (128, 0), (256, .4), (256, .4), (256, 0)],
          [(512, .4), (512, .4), (512, 0)],
          [(512, .4), (512, .4), (512, 0)]]
_GLOBAL = [(512, .4), 'M', (512, .4), 'M']
_AUTHORS_INIT = [
    # The last convolution is the authors' linear layer: uniform within 1 / sqrt(fan in), here with a bias of 0.
    dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu',
         override=dict(type='Kaiming', name='dense', a=5**0.5, mode='fan_in', nonlinearity='leaky_relu',
                       distribution='uniform')),
    dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0),
]
ARCHS: Dict[str, Dict[str, Any]] = dict(
    authors=dict(blocks=_LOCAL, tail=_GLOBAL, dropout=True, eps=1e-3, ceil_mode=True, init_cfg=_AUTHORS_INIT),
    # The authors' baseline, with the pooling of VGG-16.
    plain=dict(
        blocks=[[(64, .3), (64, 0), 'M', (128, .4), (128, 0), 'M', (256, .4), (256, .4), (256, 0)], *_LOCAL[1:]],
        tail=[], dropout=True, eps=1e-3, ceil_mode=True, init_cfg=_AUTHORS_INIT),
    reimplementation=dict(
        blocks=_LOCAL, tail=_GLOBAL, dropout=False, eps=1e-5, ceil_mode=False,
        init_cfg=[
            dict(type='Xavier', layer='Conv2d', gain=2**0.5, distribution='uniform'),
            dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0),
        ]))
POSITIONS = ('before_pool', 'after_pool')


@MODELS.register_module()
class AttentionVGG(BaseModule):
    """VGG-like network for small images, with local features of several scales and a global vector.

    3x3 convolutions, each with BN and ReLU: 64, 64, 128, 128, 256, 256, 256 without pooling in between (l1); 512, 512,
    512 (l2); 512, 512, 512 (l3); 512 and 512, each pooled; and a convolution over the whole remaining map, which
    gives the global vector (g). Every block is followed by 2x2 max-pooling. Use a neck
    (:class:`mmat.models.SpatialAttentionNeck`) for attention and a head for the classifier. Taps for attention
    transfer are the local features: stages 0, 1, 2.

    Args:
        arch (str): 'authors', with dropout of 0.3 to 0.5; 'reimplementation', the PyTorch re-implementation without
            dropout, with another initialisation and sizes rounded down; or 'plain', the authors' baseline without
            attention, which also pools within the first block, after 64 and 128 channels. Defaults to 'authors'.
        position (str): Take local features 'before_pool', before the max-pooling of their block, as in the paper, or
            'after_pool', at half the size. Defaults to 'before_pool'.
        out_indices (Sequence[int]): Local features to return: (2, ) for att, (1, 2) for att2, (0, 1, 2) for att3, ()
            for the global vector only. Defaults to (0, 1, 2).
        base_channels (int): Channels of the first convolution. All widths are multiples of it. Defaults to 64.
        in_channels (int): Channels of the input image. Defaults to 3.
        image_size (int): Height and width for which the last convolution covers the whole map, at least 32. Larger
            images are averaged over positions. Defaults to 32.
        first_pool (int): Size and stride of the max-pooling after the first block. The authors use 5 for CUB at 80
            pixels, with the network for 32 pixels otherwise unchanged. Defaults to 2.
        average_gradients (bool): Average instead of sum the gradients of branches, as in the authors' hand-written
            backward pass: halve the gradient of every returned local feature, and divide the global vector's by their
            number. Required by their recipe's learning rate of 1. Defaults to False.
        init_cfg (dict | list, optional): Initialisation. Defaults to None, the initialisation of ``arch``.

    Raises:
        ConfigError: An option is invalid.
        UserError: At run time, the images are too small for the pooling layers.

    Shapes: input (N, in_channels, H, W); output, a tuple of the chosen local features followed by the global vector: l1
    (N, 4b, H, W), l2 (N, 8b, H/2, W/2), l3 (N, 8b, H/4, W/4), g (N, 8b), with b ``base_channels``. Sizes are halved for
    'after_pool', quartered for 'plain'; a larger ``first_pool`` reduces l2 and l3.
    """

    def __init__(self,
                 arch: str = 'authors',
                 position: str = 'before_pool',
                 out_indices: Sequence[int] = (0, 1, 2),
                 base_channels: int = 64,
                 in_channels: int = 3,
                 image_size: int = 32,
                 first_pool: int = 2,
                 average_gradients: bool = False,
                 init_cfg=None):
        if arch not in ARCHS:
            raise ConfigError(f'The arch of AttentionVGG must be one of {tuple(ARCHS)}, got {arch!r}.')
        plan = ARCHS[arch]
        super().__init__(plan['init_cfg'] if init_cfg is None else init_cfg)
        if position not in POSITIONS:
            raise ConfigError(f'The position of AttentionVGG must be one of {POSITIONS}, got {position!r}.')
        for argument, value, minimum in (('base_channels', base_channels, 1), ('in_channels', in_channels, 1),
                                         ('image_size', image_size, 32), ('first_pool', first_pool, 2)):
            check_number(value, argument, 'AttentionVGG', minimum)
        self.position = position
        self.out_indices = check_levels(out_indices, 'AttentionVGG')
        self.average_gradients = average_gradients
        width = in_channels
        ceil_mode = plan['ceil_mode']
        # Pooling sizes in the order of the forward pass.
        pools = []
        for index, layers in enumerate([*plan['blocks'], plan['tail']]):
            modules: OrderedDict[str, nn.Module] = OrderedDict()
            convs = 0
            for layer in layers:
                if layer == 'M':
                    modules[f'pool{convs - 1}'] = nn.MaxPool2d(2, ceil_mode=ceil_mode)
                    pools.append(2)
                    continue
                out_width, dropout = layer[0] * base_channels // 64, layer[1]
                modules[f'conv{convs}'] = conv_bn_relu(width, out_width, plan['eps'])
                if plan['dropout'] and dropout:
                    modules[f'drop{convs}'] = nn.Dropout(dropout)
                convs += 1
                width = out_width
            if index < 3:
                setattr(self, f'block{index}', nn.Sequential(modules))
                pools.append(first_pool if index == 0 else 2)
                setattr(self, f'pool{index}', nn.MaxPool2d(pools[-1], ceil_mode=ceil_mode))
            else:
                if plan['dropout']:
                    modules['drop'] = nn.Dropout(0.5)
                self.tail = nn.Sequential(modules)
        size = _pooled(image_size, pools, ceil_mode)
        self.dense = nn.Conv2d(width, width, size)
        # The smallest image whose pooled map covers the last convolution.
        self.min_size = next(each for each in range(1, image_size + 1) if _pooled(each, pools, ceil_mode) >= size)

    @property
    def stage_names(self) -> tuple:
        """Names of the modules that output the local features."""
        return tuple(f'{"block" if self.position == "before_pool" else "pool"}{index}' for index in range(3))

    def forward(self, x: Tensor) -> tuple:
        if not torch.jit.is_tracing() and min(x.shape[-2:]) < self.min_size:
            raise UserError(f'This AttentionVGG needs images of at least {self.min_size} pixels on each side, got '
                            f'{tuple(x.shape[-2:])}.')
        outs = []
        for index in range(3):
            x = getattr(self, f'block{index}')(x)
            pool = getattr(self, f'pool{index}')
            if self.position == 'after_pool':
                x = pool(x)
            if index in self.out_indices:
                if self.average_gradients:
                    x = average_gradient(x, 2)
                outs.append(x)
            if self.position == 'before_pool':
                x = pool(x)
        descriptor = self.dense(self.tail(x)).mean((2, 3))
        if self.average_gradients:
            descriptor = average_gradient(descriptor, len(outs))
        return (*outs, descriptor)


def _pooled(size: int, pools: Sequence[int], ceil_mode: bool) -> int:
    """Return a height or width after max-pooling layers of these sizes and strides."""
    for pool in pools:
        size = -(-size // pool) if ceil_mode else size // pool
    return size
