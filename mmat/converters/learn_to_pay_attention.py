"""Weights of the PyTorch re-implementation of "Learn to Pay Attention", github.com/SaoYan/LearnToPayAttention."""
from typing import Dict

from torch import Tensor

from mmat.utils.checkpoint import strip_module_prefix

from .renaming import BN, rename

# Its blocks of convolutions, and ours that they are part of: name, convolutions, ours, our first, modules of each.
_BLOCKS = (('conv_block1', 2, 'block0', 0, 3), ('conv_block2', 2, 'block0', 2, 3), ('conv_block3', 3, 'block0', 4, 3),
           ('conv_block4', 3, 'block1', 0, 3), ('conv_block5', 3, 'block2', 0, 3), ('conv_block6', 2, 'tail', 0, 4))


def _key_map(attention: bool) -> Dict[str, str]:
    """Theirs -> ours."""
    keys = {}
    for theirs, count, ours, first, step in _BLOCKS:
        for conv in range(count):
            target = f'backbone.{ours}.conv{first + conv}'
            for name in ('weight', 'bias'):
                keys[f'{theirs}.op.{step * conv}.{name}'] = f'{target}.conv.{name}'
            for name in BN:
                keys[f'{theirs}.op.{step * conv + 1}.{name}'] = f'{target}.bn.{name}'
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

    Both of its networks, attention before and after max-pooling, have the same weights under the same names: which of
    them a file is of, it does not tell, and whoever converts it has to know. Files of networks trained without
    attention (``--no_attention``) are for ``vgg-reimpl``.

    Args:
        state (dict): Its state dict, with or without the prefix ``module.`` of its training on several GPUs.

    Returns:
        dict: State dict of the network that the config builds.

    Raises:
        ValueError: Weights that the network does not have, or that are missing.
    """
    state = strip_module_prefix(state)
    keys = _key_map(attention='projector.op.weight' in state)
    return rename(state, keys, 'a LearnToPayAttention network (conv_block1 to conv_block6, dense, classify, perhaps '
                  'projector and attn1 to attn3)')
