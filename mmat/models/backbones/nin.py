"""Network in network for small images (Lin et al., ICLR 2014), as in the code of wide residual networks."""
from collections import OrderedDict
from typing import Optional, Sequence, Union

import torch.nn as nn
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor

from mmat.errors import ConfigError
from mmat.registry import MODELS

from ..options import check_out_indices

# Widths of the three convolutions of each block. The paper states only the size of 'thin', 0.2M. This project scales
# the widths of 'wide' by 0.44, rounded to multiples of four.
ARCHS = dict(
    wide=((192, 160, 96), (192, 192, 192), (192, 192, 192)),
    thin=((84, 72, 44), (84, 84, 84), (84, 84, 84)))


@MODELS.register_module()
class NIN(BaseModule):
    """Network in network for 32x32 images: three blocks of one spatial and two 1x1 convolutions.

    5x5, 1x1, 1x1; 3x3 max-pooling of stride 2; 5x5, 1x1, 1x1; 3x3 average pooling of stride 2; 3x3, 1x1, 1x1. Each
    convolution is followed by BN and ReLU; there is no dropout. Pooling rounds sizes up, as in the reference. Use a
    neck and a head for global average pooling and the linear classifier. Initialised like the attention transfer
    authors' networks: kaiming-normal convolutions (fan in), BN weights uniform in [0, 1), BN biases 0.

    Taps for attention transfer, this project's choice, are the outputs of the three blocks, before pooling: stages 0,
    1, 2, or ``backbone.block0`` to ``backbone.block2``.

    Args:
        arch (str | Sequence): 'wide' (1M parameters, the teacher), 'thin' (0.2M, the student), or three widths for each
            of the three blocks. Defaults to 'wide'.
        in_channels (int): Channels of the input image. Defaults to 3.
        norm_cfg (dict, optional): Normalisation after each convolution. With None, convolutions have a bias instead.
            Defaults to ``dict(type='BN')``.
        relu_before_pool (bool): End each block with a ReLU. False gives the network of the paper's Table 3. Defaults
            to True.
        out_indices (Sequence[int]): Blocks whose outputs are returned. Defaults to (2, ).
        init_cfg (dict | list, optional): Initialisation. Defaults to the authors'.

    Raises:
        ConfigError: ``arch`` is unknown or not three times three widths, or an index is outside [0, 2].

    Shapes: input (N, in_channels, H, W); output, a tuple of (N, C0, H, W), (N, C1, H/2, W/2), (N, C2, H/4, W/4).
    """

    stage_names = ('block0', 'block1', 'block2')

    def __init__(self,
                 arch: Union[str, Sequence[Sequence[int]]] = 'wide',
                 in_channels: int = 3,
                 norm_cfg: Optional[dict] = dict(type='BN'),
                 relu_before_pool: bool = True,
                 out_indices: Sequence[int] = (2, ),
                 init_cfg=[
                     dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='relu'),
                     dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0),
                 ]):
        super().__init__(init_cfg)
        if isinstance(arch, str) and arch not in ARCHS:
            raise ConfigError(f'The arch of NIN must be one of {sorted(ARCHS)} or three times three widths, got '
                              f'{arch!r}.')
        widths = ARCHS[arch] if isinstance(arch, str) else arch
        if not _is_three(widths) or not all(
                _is_three(block) and all(isinstance(width, int) and width > 0 for width in block) for block in widths):
            raise ConfigError('The arch of NIN must be three times three widths, such as '
                              f'((192, 160, 96), (192, 192, 192), (192, 192, 192)), got {arch!r}.')
        self.out_indices = check_out_indices(out_indices, 3, 'NIN')
        for name, kernel_size, block_widths in zip(self.stage_names, (5, 5, 3), widths):
            convs = OrderedDict()
            for index, (kernel, width) in enumerate(zip((kernel_size, 1, 1), block_widths)):
                ends_with_relu = relu_before_pool or index < 2
                convs[f'conv{index}'] = ConvModule(
                    in_channels, width, kernel, padding=kernel // 2, norm_cfg=norm_cfg,
                    act_cfg=dict(type='ReLU') if ends_with_relu else None)
                in_channels = width
            setattr(self, name, nn.Sequential(convs))
        self.pool0 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.pool1 = nn.AvgPool2d(3, stride=2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple:
        block0 = self.block0(x)
        block1 = self.block1(self.pool0(block0))
        block2 = self.block2(self.pool1(block1))
        return tuple((block0, block1, block2)[index] for index in self.out_indices)


def _is_three(values) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and len(values) == 3
