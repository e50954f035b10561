"""Post-activation ResNets for small images (He et al., CVPR 2016), as in distillation benchmarks."""
from typing import Sequence

from mmpretrain.models import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock

from mmat.registry import MODELS

from ..options import check_depth, check_number, check_out_indices


@MODELS.register_module()
class CIFARResNet(ResNet_CIFAR):
    """ResNet of depth 6n + 2 for 32x32 images, identical to the network of RepDistiller's CIFAR-100 benchmark.

    A 3x3 convolution with BN and ReLU and three stages of n basic blocks at strides 1, 2, 2, each twice as wide as the
    previous one. If the shape changes, the shortcut is a 1x1 convolution with BN, not the paper's zero padding. The
    benchmark's resnet20, 32, 56 and 110 have the default widths; its resnet8x4 and resnet32x4 have a stem of 32
    channels, twice as wide as resnet20's, and stages four times as wide. Use a neck and a head for global average
    pooling and the linear classifier. Parameters have mmpretrain's names, which are also the benchmark's.

    Taps for attention transfer are the outputs of the three stages, after their last ReLU: stages 0, 1, 2, or
    ``backbone.layer1`` to ``backbone.layer3``.

    Args:
        depth (int): 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...
        stem_channels (int): Channels of the first convolution. Defaults to 16.
        base_channels (int): Channels of the first stage. Defaults to 16.
        out_indices (Sequence[int]): Stages whose outputs are returned. Defaults to (2, ).
        zero_init_residual (bool): Initialise the last BN of each block to 0. Defaults to False, as in the benchmark.
            mmpretrain's ResNet initialises the rest as the benchmark does: kaiming-normal convolutions (fan out), BN
            weights 1, BN biases 0.
        **kwargs: Arguments of mmpretrain's ResNet: ``in_channels``, ``norm_cfg``, ``norm_eval``, ``frozen_stages``, ...

    Raises:
        ConfigError: ``depth`` is not 6n + 2, a width is below 1, or an index is outside [0, 2].

    Shapes: input (N, in_channels, H, W); output, a tuple of (N, b, H, W), (N, 2b, H/2, W/2), (N, 4b, H/4, W/4), with b
    ``base_channels``.
    """

    def __init__(self,
                 depth: int,
                 stem_channels: int = 16,
                 base_channels: int = 16,
                 out_indices: Sequence[int] = (2, ),
                 zero_init_residual: bool = False,
                 **kwargs):
        blocks = check_depth(depth, 6, 2, 'CIFARResNet')
        check_number(stem_channels, 'stem_channels', 'CIFARResNet')
        check_number(base_channels, 'base_channels', 'CIFARResNet')
        check_out_indices(out_indices, 3, 'CIFARResNet')
        # mmpretrain's networks look up their depth here. An instance attribute leaves theirs unchanged.
        self.arch_settings = {depth: (BasicBlock, (blocks, ) * 3)}
        super().__init__(
            depth, stem_channels=stem_channels, base_channels=base_channels, num_stages=3, strides=(1, 2, 2),
            dilations=(1, 1, 1), out_indices=out_indices, zero_init_residual=zero_init_residual, **kwargs)

    def train(self, mode: bool = True) -> 'CIFARResNet':
        super().train(mode)
        return self  # mmpretrain's returns None
