"""Names and BN of mmpretrain's ResNet, for the converters to it."""
from typing import Dict, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor

# Of mmpretrain's BN, and torch's.
_EPS = 1e-5


def resnet_convs(blocks: Sequence[int], bottleneck: bool) -> Iterator[Tuple[str, str, str]]:
    """The convolutions after the stem: the author's name, ours, and our name of the BN that follows.

    Args:
        blocks (Sequence[int]): Blocks of each of the four groups.
        bottleneck (bool): Whether a block has three convolutions, not two.

    Yields:
        tuple: Such as ``('group1.block0.conv1', 'backbone.layer2.0.conv2', 'backbone.layer2.0.bn2')``.
    """
    for group, count in enumerate(blocks):
        for block in range(count):
            theirs, ours = f'group{group}.block{block}', f'backbone.layer{group + 1}.{block}'
            for conv in range(3 if bottleneck else 2):
                yield f'{theirs}.conv{conv}', f'{ours}.conv{conv + 1}', f'{ours}.bn{conv + 1}'
            # Basic blocks of the first group keep width and size.
            if block == 0 and (bottleneck or group > 0):
                yield f'{theirs}.conv_dim', f'{ours}.downsample.0', f'{ours}.downsample.1'


def identity_bn(name: str, conv: Tensor, bias: Optional[Tensor] = None) -> Dict[str, Tensor]:
    """The weights of a BN that only adds a bias.

    It divides by ``sqrt(running_var + eps)``, which is 1. That holds in eval mode; one that trains normalises by its
    batch.

    Args:
        name (str): The BN's.
        conv (Tensor): Weight of the convolution before it, (C, ...), which tells width and precision.
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
