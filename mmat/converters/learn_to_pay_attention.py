"""Converter for the PyTorch re-implementation of "Learn to Pay Attention", github.com/SaoYan/LearnToPayAttention."""
from typing import Dict

from torch import Tensor

from mmat.utils.checkpoint import strip_module_prefix

from .renaming import BN, rename

# Source block, its number of convolutions, target block, index of its first convolution there, modules per convolution
# in the source.
_BLOCKS = (('conv_block1', 2, 'block0', 0, 3), ('conv_block2', 2, 'block0', 2, 3), ('conv_block3', 3, 'block0', 4, 3),
           ('conv_block4', 3, 'block1', 0, 3), ('conv_block5', 3, 'block2', 0, 3), ('conv_block6', 2, 'tail', 0, 4))


def _key_map(attention: bool) -> Dict[str, str]:
    """Return a dict from source name to target name."""
    keys = {}
    for source, count, block, first, step in _BLOCKS:
        for conv in range(count):
            target = f'backbone.{block}.conv{first + conv}'
            for name in ('weight', 'bias'):
                keys[f'{source}.op.{step * conv}.{name}'] = f'{target}.conv.{name}'
            for name in BN:
                keys[f'{source}.op.{step * conv + 1}.{name}'] = f'{target}.bn.{name}'
    for name in ('weight', 'bias'):
        keys[f'dense.{name}'] = f'backbone.dense.{name}'
        keys[f'classify.{name}'] = f'head.fc.{name}'
    if attention:
        keys['projector.op.weight'] = 'neck.projections.0.weight'
        for level in range(3):
            keys[f'attn{level + 1}.op.weight'] = f'neck.scores.{level}.weight'
    return keys


def convert_learn_to_pay_attention(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename the weights of the re-implementation's ``net.pth`` for ``vgg-reimpl*`` configs.

    The networks with attention before and after max-pooling have the same weight names and shapes, so the file does not
    identify its network; choose the config accordingly. Files of networks trained without attention
    (``--no_attention``) are for ``vgg-reimpl``.

    Args:
        state (dict): State dict, with or without the prefix ``module.`` of training on several GPUs.

    Returns:
        dict: State dict of the network that the config builds.

    Raises:
        CheckpointError: The weights are not those of such a network.
    """
    state = strip_module_prefix(state)
    keys = _key_map(attention='projector.op.weight' in state)
    return rename(state, keys, 'a LearnToPayAttention network (conv_block1 to conv_block6, dense, classify, '
                  'with attention also projector and attn1 to attn3)')
