"""Weights of the attention transfer author's model zoo, github.com/szagoruyko/functional-zoo."""
from typing import Dict

from torch import Tensor

from .renaming import count_blocks, rename
from .resnet import identity_bn, resnet_convs


def convert_functional_zoo(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename the weights of its ResNets for mmpretrain's ResNet, or for :class:`AffineResNet`.

    ``resnet-18-export``, ``resnet-34-export`` and ``wide-resnet-50-2-export`` have BN folded into their convolutions,
    which have a bias for it. They become mmpretrain's ResNet with BN that only add it: equal in eval mode, and to be
    fine-tuned with ``norm_eval=True`` only. ``resnet-18-at-export``, the student of attention transfer, has
    pre-activation blocks and affine layers in place of BN: that is :class:`AffineResNet`.

    Args:
        state (dict): By name, ``conv0.weight`` or ``conv0`` to ``fc.bias``. Blocks and widths are taken from it.

    Returns:
        dict: State dict of the network that the config builds.

    Raises:
        ValueError: Weights that the network does not have, or that are missing.
    """
    return _affine(state) if 'affine_last.a' in state else _folded(state)


def _folded(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    blocks = [count_blocks(state, f'group{group}.block') for group in range(4)]
    convs = [('conv0', 'backbone.conv1', 'backbone.bn1'),
             *resnet_convs(blocks, bottleneck='group0.block0.conv2.weight' in state)]
    # Those of resnet-18-export have no bias.
    projections_have_bias = any(key.endswith('conv_dim.bias') for key in state)
    keys = {}
    for theirs, ours, bn in convs:
        keys[f'{theirs}.weight'] = f'{ours}.weight'
        if projections_have_bias or not theirs.endswith('conv_dim'):
            keys[f'{theirs}.bias'] = f'{bn}.bias'
    keys.update({f'fc.{name}': f'head.fc.{name}' for name in ('weight', 'bias')})
    converted = rename(
        state, keys, 'a ResNet of functional-zoo (conv0, group0.block0.conv0 and so on, fc, each with weight and bias)')
    for _, ours, bn in convs:
        converted.update(identity_bn(bn, converted[f'{ours}.weight'], converted.get(f'{bn}.bias')))
    return converted


def _affine(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    convs, affines = ['conv0'], ['affine0', 'affine_last']
    for group in range(4):
        for block in range(count_blocks(state, f'group{group}.block')):
            base = f'group{group}.block{block}'
            convs += [f'{base}.conv0', f'{base}.conv1']
            affines.append(f'{base}.affine1')
            # The stem activates what the very first block reads.
            if group > 0 or block > 0:
                affines.append(f'{base}.affine0')
            if group > 0 and block == 0:
                convs.append(f'{base}.conv_dim')
    keys = {conv: f'backbone.{conv}.weight' for conv in convs}
    keys.update({f'{affine}.{name}': f'backbone.{affine}.{name}' for affine in affines for name in ('a', 'b')})
    keys.update({f'fc.{name}': f'head.fc.{name}' for name in ('weight', 'bias')})
    return rename(state, keys, 'the resnet-18-at-export of functional-zoo (conv0, affine0, group0.block0.conv0 and so '
                  'on, affine_last, fc)')
