"""Arguments and output of the checkpoint converters' command lines."""
import argparse
import io
import re
from typing import Dict, Optional

import torch
from torch import Tensor

from mmat.converters.renaming import count_blocks
from mmat.engine import AtomicBackend
from mmat.errors import CheckpointError, MissingFileError
from mmat.models import build_network
from mmat.utils.checkpoint import load_state
from mmat.utils.zoo import find_config

# Number of classes -> batch size and dataset in the names of configs.
_SUFFIXES = {10: '1xb128_cifar10', 100: '1xb64_cifar100', 1000: '8xb32_in1k'}
# Convolutions in a block, blocks in each stage, width of the first convolution -> name.
_RESNETS = {
    (2, (2, 2, 2, 2), 64): 'resnet18', (2, (3, 4, 6, 3), 64): 'resnet34', (3, (3, 4, 6, 3), 64): 'resnet50',
    (3, (3, 4, 6, 3), 128): 'wide-resnet50-2'}
_AFFINE_RESNETS = {(2, 2, 2, 2): 'affine-resnet18', (3, 4, 6, 3): 'affine-resnet34'}


def converter_parser(description: str, source: str) -> argparse.ArgumentParser:
    """Build the argument parser of a converter; ``source`` is the help of its input file."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('source', help=source)
    parser.add_argument('target', help='checkpoint file to write')
    parser.add_argument('--config', help='config of the network, a name of the zoo or a file; the weights must fit it. '
                        'Default: the config of the zoo that matches the weights')
    return parser


def network_name(state: Dict[str, Tensor]) -> str:
    """Return the zoo's name of the network that has these weights, the first part of its configs' names.

    Args:
        state (dict): Converted weights of mmpretrain's ResNet or VGG, a WideResNet or an AffineResNet.
    """
    def blocks(stage: str, numbers: range) -> tuple:
        return tuple(count_blocks(state, f'backbone.{stage.format(number)}') for number in numbers)

    if 'backbone.layer1.0.conv1.weight' in state:
        convs = 3 if 'backbone.layer1.0.conv3.weight' in state else 2
        key = convs, blocks('layer{}.', range(1, 5)), len(state['backbone.layer1.0.conv1.weight'])
        return _RESNETS.get(key, 'ResNet of another size')
    if 'backbone.affine_last.a' in state:
        return _AFFINE_RESNETS.get(blocks('group{}.block', range(4)), 'AffineResNet of another size')
    if 'backbone.features.0.conv.weight' in state:
        convs = sum(re.fullmatch(r'backbone\.features\.\d+\.conv\.weight', key) is not None for key in state)
        return f'vgg{convs + 3}{"bn" if "backbone.features.0.bn.weight" in state else ""}'
    depth = 6 * blocks('group{}.block', range(1))[0] + 4
    return f'wrn{depth}-{len(state["backbone.group0.block0.conv0.weight"]) / 16:g}'


def matching_config(state: Dict[str, Tensor], source: str) -> str:
    """Return the name of the config in mmat's or mmpretrain's zoo that matches converted weights.

    Args:
        state (dict): See :func:`network_name`.
        source (str): Origin of the weights, for the message.

    Raises:
        CheckpointError: No config matches.
    """
    name = network_name(state)
    bias = next(state[key] for key in ('head.fc.bias', 'backbone.classifier.6.bias') if key in state)
    config = f'{name}_{_SUFFIXES.get(len(bias))}'
    try:
        find_config(config)
    except MissingFileError as error:
        raise CheckpointError(f'{source} holds a {name} with {len(bias)} classes, which matches no config of the zoo. '
                              'Set one with --config.') from error
    return config


def write_converted(args: argparse.Namespace, state: Dict[str, Tensor], origin: str,
                    config: Optional[str] = None) -> None:
    """Check that converted weights fit their config, write them as a checkpoint, and print the config.

    Args:
        args (Namespace): Arguments of :func:`converter_parser`.
        state (dict): Converted weights.
        origin (str): Origin of the weights, for the checkpoint's ``meta``.
        config (str, optional): Config to use without ``--config``. Defaults to None, :func:`matching_config`.

    Raises:
        MissingFileError: The config does not exist.
        CheckpointError: No config matches, or the weights do not fit the config.
    """
    source = repr(args.source)
    config = args.config or config or matching_config(state, source)
    load_state(build_network(config), state, source)
    buffer = io.BytesIO()
    torch.save(dict(state_dict=state, meta=dict(source=origin)), buffer)
    AtomicBackend().put(buffer.getvalue(), args.target)
    print(f'Wrote {args.target} for {config}.')
