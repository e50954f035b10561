"""What the converters' command lines share: their arguments, the config that weights are for, and the writing."""
import argparse
import io
import re
from typing import Dict, Optional

import torch
from torch import Tensor

from mmat.converters.renaming import count_blocks
from mmat.engine import AtomicBackend
from mmat.models import build_network
from mmat.utils.checkpoint import load_state
from mmat.utils.zoo import find_config

_DATA = {10: '1xb128_cifar10', 100: '1xb64_cifar100', 1000: '8xb32_in1k'}
# By blocks and the width of the first block's first convolution; three in a block make a bottleneck.
_RESNETS = {
    (2, (2, 2, 2, 2), 64): 'resnet18', (2, (3, 4, 6, 3), 64): 'resnet34', (3, (3, 4, 6, 3), 64): 'resnet50',
    (3, (3, 4, 6, 3), 128): 'wide-resnet50-2'}
_AFFINE_RESNETS = {(2, 2, 2, 2): 'affine-resnet18', (3, 4, 6, 3): 'affine-resnet34'}


def converter_parser(description: str, source: str) -> argparse.ArgumentParser:
    """The arguments of every converter; ``source`` says what it reads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('source', help=source)
    parser.add_argument('target', help='the checkpoint to write')
    parser.add_argument('--config', help='the config that the checkpoint is for, and must fit: a name of the zoo or a '
                        'file. Default: the one of the zoo that its weights call for')
    return parser


def network_name(state: Dict[str, Tensor]) -> str:
    """How the zoo calls the network that converted weights are of: what its configs' names begin with.

    Args:
        state (dict): Of a ResNet or VGG of mmpretrain, a WideResNet or an AffineResNet, by its names.
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


def zoo_config(state: Dict[str, Tensor], source: str) -> str:
    """The config that converted weights are for, of our zoo or mmpretrain's.

    Args:
        state (dict): As for :func:`network_name`.
        source (str): How the message calls where they are from.

    Raises:
        ValueError: It has none.
    """
    name = network_name(state)
    bias = next(state[key] for key in ('head.fc.bias', 'backbone.classifier.6.bias') if key in state)
    config = f'{name}_{_DATA.get(len(bias))}'
    try:
        find_config(config)
    except FileNotFoundError as error:
        raise ValueError(f'{source} is of a {name} of {len(bias)} classes, for which no config is here; name one with '
                         '--config') from error
    return config


def write_converted(args: argparse.Namespace, state: Dict[str, Tensor], origin: str,
                    config: Optional[str] = None) -> None:
    """Write converted weights as a checkpoint, once they are found to fit the config, and say which that is.

    Args:
        args (Namespace): The command line.
        state (dict): The weights.
        origin (str): Where the weights are from, for the checkpoint's ``meta``.
        config (str, optional): The config that they are for where the command line names none. Defaults to None, see
            :func:`zoo_config`.

    Raises:
        FileNotFoundError, ValueError: There is no such config, or the weights do not fit it.
    """
    source = repr(args.source)
    config = args.config or config or zoo_config(state, source)
    load_state(build_network(config), state, source)
    buffer = io.BytesIO()
    torch.save(dict(state_dict=state, meta=dict(source=origin)), buffer)
    AtomicBackend().put(buffer.getvalue(), args.target)
    print(f'wrote {args.target}, for {config}')
