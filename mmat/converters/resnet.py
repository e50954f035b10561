"""Names and BN of mmpretrain's ResNet, shared by converters."""
from typing import Dict, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor

# The default eps of BN in mmpretrain and torch.
_EPS = 1e-5


def resnet_convs(blocks: Sequence[int], bottleneck: bool) -> Iterator[Tuple[str, str, str]]:
    """Yield the names of the convolutions after the stem.

    Args:
        blocks (Sequence[int]): Number of blocks in each of the four groups.
        bottleneck (bool): True for three convolutions in a block, False for two.

    Yields:
        tuple: Source name, target name, and target name of the BN that follows, such as
        ``('group1.block0.conv1', 'backbone.layer2.0.conv2', 'backbone.layer2.0.bn2')``.
    """
    for group, count in enumerate(blocks):
        for block in range(count):
            source, target = f'group{group}.block{block}', f'backbone.layer{group + 1}.{block}'
            for conv in range(3 if bottleneck else 2):
                yield f'{source}.conv{conv}', f'{target}.conv{conv + 1}', f'{target}.bn{conv + 1}'
            # Basic blocks of the first group keep width and size, so they have no projection.
            if block == 0 and (bottleneck or group > 0):
                yield f'{source}.conv_dim', f'{target}.downsample.0', f'{target}.downsample.1'


def identity_bn(name: str, conv: Tensor, bias: Optional[Tensor] = None) -> Dict[str, Tensor]:
    """Return the weights of a BN that only adds a bias in eval mode.

    ``sqrt(running_var + eps)`` is 1. In training mode, the BN normalises by its batch.

    Args:
        name (str): Path of the BN.
        conv (Tensor): Weight of the convolution before it, (C, ...), which determines width and dtype.
        bias (Tensor, optional): (C, ). Defaults to None, zeros.
    """
    width = len(conv)
    return {
        f'{name}.weight': conv.new_ones(width),
        f'{name}.bias': conv.new_zeros(width) if bias is None else bias,
        f'{name}.running_mean': conv.new_zeros(width),
        f'{name}.running_var': conv.new_full((width, ), 1 - _EPS),
        f'{name}.num_batches_tracked': torch.zeros((), dtype=torch.long, device=conv.device),
    }
