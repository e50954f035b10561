"""Pre-activation ResNet with local features and a global vector (RN-att of "Learn to Pay Attention", ICLR 2018)."""
from collections import OrderedDict
from typing import Sequence

import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmat.errors import ConfigError
from mmat.registry import MODELS

from ..options import check_depth
from .layers import average_gradient, check_levels, conv_bn_relu


class PreActBottleneck(BaseModule):
    """Pre-activation bottleneck block (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016).

    ``o = relu(bn0(x)); z = conv2(relu(bn2(conv1(relu(bn1(conv0(o))))))``, with 1x1, 3x3 and 1x1 convolutions, the first
    with the stride; ``out = z + (shortcut(o) if the widths differ else x)``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        width = out_channels // 4
        self.bn0 = nn.BatchNorm2d(in_channels)
        self.conv0 = nn.Conv2d(in_channels, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn0(x), inplace=True)
        out = F.relu(self.bn1(self.conv0(activated)), inplace=True)
        out = self.conv2(F.relu(self.bn2(self.conv1(out)), inplace=True))
        return out + (x if self.shortcut is None else self.shortcut(activated))


@MODELS.register_module()
class AttentionResNet(BaseModule):
    """Pre-activation ResNet of depth 9n + 2 for small images, with local features and a global vector.

    A 3x3 convolution to 16 channels and three stages of n bottleneck blocks, 64, 128 and 256 wide, at strides 1, 2, 2.
    Local features are the raw outputs of stages, before the next BN. Depth 164 with stages 1 and 2 is the paper's
    RN-att2, depth 164 without local features its baseline. Taps for attention transfer are the stages 0, 1, 2.

    Args:
        depth (int): 9n + 2: 11, 20, ..., 164, ... Defaults to 164.
        out_indices (Sequence[int]): Local features to return, () for the global vector only. Defaults to (1, 2).
        global_branch (str): Layers that compute the global vector after the last stage, BN and ReLU. 'conv', the
            authors' for attention: max-pooling, a 3x3 convolution with BN, ReLU and dropout, global max-pooling,
            dropout and a linear layer. 'pool', the plain ResNet: average pooling. Defaults to 'conv'.
        in_channels (int): Channels of the input image. Defaults to 3.
        average_gradients (bool): See :class:`AttentionVGG`. Defaults to False.
        init_cfg (dict | list, optional): Initialisation. Defaults to the authors': kaiming-normal convolutions (fan
            out), BN weights uniform in [0, 1), BN biases 0, torch's default for linear layers.

    Raises:
        ConfigError: ``depth`` is not 9n + 2, or another option is invalid.

    Shapes: input (N, in_channels, H, W); output, a tuple of the chosen local features, (N, 64, H, W),
    (N, 128, H/2, W/2), (N, 256, H/4, W/4), followed by the global vector, (N, 256).
    """

    stage_names = ('stage0', 'stage1', 'stage2')

    def __init__(self,
                 depth: int = 164,
                 out_indices: Sequence[int] = (1, 2),
                 global_branch: str = 'conv',
                 in_channels: int = 3,
                 average_gradients: bool = False,
                 init_cfg=[
                     dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
                     dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0),
                 ]):
        super().__init__(init_cfg)
        count = check_depth(depth, 9, 2, 'AttentionResNet')
        if global_branch not in ('conv', 'pool'):
            raise ConfigError(f"The global_branch of AttentionResNet must be 'conv' or 'pool', got {global_branch!r}.")
        self.out_indices = check_levels(out_indices, 'AttentionResNet')
        self.average_gradients = average_gradients
        self.conv0 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        width = 16
        for index, (name, out_width) in enumerate(zip(self.stage_names, (64, 128, 256))):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for b in range(count):
                blocks[f'block{b}'] = PreActBottleneck(width, out_width, 2 if index > 0 and b == 0 else 1)
                width = out_width
            setattr(self, name, nn.Sequential(blocks))
        self.bn = nn.BatchNorm2d(width)
        if global_branch == 'pool':
            self.descriptor = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        else:
            self.descriptor = nn.Sequential(
                OrderedDict(
                    pool=nn.MaxPool2d(2, ceil_mode=True),
                    conv=conv_bn_relu(width, width, 1e-3),
                    drop0=nn.Dropout(0.4), rest=nn.AdaptiveMaxPool2d(1), flat=nn.Flatten(), drop1=nn.Dropout(0.5),
                    fc=nn.Linear(width, width)))

    def forward(self, x: Tensor) -> tuple:
        x = self.conv0(x)
        outs = []
        for index, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                if self.average_gradients:
                    x = average_gradient(x, 2)
                outs.append(x)
        descriptor = self.descriptor(F.relu(self.bn(x)))
        if self.average_gradients:
            descriptor = average_gradient(descriptor, len(outs))
        return (*outs, descriptor)
