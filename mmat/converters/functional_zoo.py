"""Converter for the attention transfer author's model zoo, github.com/szagoruyko/functional-zoo."""
from typing import Dict

from torch import Tensor

from .renaming import count_blocks, rename
from .resnet import identity_bn, resnet_convs


def convert_functional_zoo(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename weights of functional-zoo's ResNets for mmpretrain's ResNet or :class:`AffineResNet`.

    ``resnet-18-export``, ``resnet-34-export`` and ``wide-resnet-50-2-export`` have BN folded into their convolutions,
    as a bias. They become mmpretrain's ResNet with BN that only add this bias: outputs are equal in eval mode, and
    fine-tuning needs ``norm_eval=True``. ``resnet-18-at-export``, the student of attention transfer, has pre-activation
    blocks and affine layers in place of BN. It becomes :class:`AffineResNet`.

    Args:
        state (dict): Weights by name, ``conv0.weight`` or ``conv0`` to ``fc.bias``. They determine depth and width.

    Returns:
        dict: State dict of the network that the config builds.

    Raises:
        CheckpointError: The weights are not those of such a network.
    """
    return _affine(state) if 'affine_last.a' in state else _folded(state)


def _folded(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    blocks = [count_blocks(state, f'group{group}.block') for group in range(4)]
    convs = [('conv0', 'backbone.conv1', 'backbone.bn1'),
             *resnet_convs(blocks, bottleneck='group0.block0.conv2.weight' in state)]
    # The projections of resnet-18-export have no bias.
    projections_have_bias = any(key.endswith('conv_dim.bias') for key in state)
    keys = {}
    for source, target, bn in convs:
        keys[f'{source}.weight'] = f'{target}.weight'
        if projections_have_bias or not source.endswith('conv_dim'):
            keys[f'{source}.bias'] = f'{bn}.bias'
    keys.update({f'fc.{name}': f'head.fc.{name}' for name in ('weight', 'bias')})
    converted = rename(
        state, keys, 'a ResNet of functional-zoo (conv0, group0.block0.conv0 and so on, fc, each with weight and bias)')
    for _, target, bn in convs:
        converted.update(identity_bn(bn, converted[f'{target}.weight'], converted.get(f'{bn}.bias')))
    return converted


def _affine(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    convs, affines = ['conv0'], ['affine0', 'affine_last']
    for group in range(4):
        for block in range(count_blocks(state, f'group{group}.block')):
            base = f'group{group}.block{block}'
            convs += [f'{base}.conv0', f'{base}.conv1']
            affines.append(f'{base}.affine1')
            # The input of the first block is already activated by the stem.
            if group > 0 or block > 0:
                affines.append(f'{base}.affine0')
            if group > 0 and block == 0:
                convs.append(f'{base}.conv_dim')
    keys = {conv: f'backbone.{conv}.weight' for conv in convs}
    keys.update({f'{affine}.{name}': f'backbone.{affine}.{name}' for affine in affines for name in ('a', 'b')})
    keys.update({f'fc.{name}': f'head.fc.{name}' for name in ('weight', 'bias')})
    return rename(state, keys, 'the resnet-18-at-export of functional-zoo (conv0, affine0, group0.block0.conv0 and so '
                  'on, affine_last, fc)')
