"""Read the outputs of inner layers: resolve layer names and hook the modules."""
import re
from contextlib import contextmanager
from typing import Dict, Iterator, Optional, Sequence, Union

import torch
import torch.nn as nn
from torch import Tensor

from mmat.errors import ConfigError, LayerError, UserError, did_you_mean

from .stages import stage_paths
from .tokens import read_tokens, split_grid, token_network

Layer = Union[int, str]


def find_layer(model: nn.Module, layer: Layer, owner: str = 'model') -> str:
    """Resolve a layer of a config to a module path.

    Args:
        model (nn.Module): The network.
        layer (int | str): A stage of the backbone, see :func:`mmat.models.stages.stage_paths`, or a module path such as
            ``'backbone.group1'``. Negative stages count from the end; the stages of a plain transformer are its layers.
            ``'path[1]'`` is the output of the module's second call in a forward pass.
        owner (str): Name of the network in messages. Defaults to 'model'.

    Returns:
        str: The path, with its call index if it has one: ``'backbone.group1'`` or ``'backbone.relu[1]'``.

    Raises:
        LayerError: The network has no such layer; the message names the closest paths.
        ConfigError: ``layer`` is neither an int nor a str.
    """
    if isinstance(layer, bool) or not isinstance(layer, (int, str)):
        raise ConfigError(f'A layer must be a stage index or a module path, got {layer!r}.')
    if isinstance(layer, int):
        stages = stage_paths(model)
        if not stages:
            example = next((name for name, _ in model.named_modules() if name), None)
            raise LayerError(f'Cannot resolve stage {layer}: the {owner} ({type(model).__name__}) defines no '
                             '`stage_names` in its backbone. Define it, or give a module path' +
                             (f' such as {example!r}.' if example else '.'))
        if not -len(stages) <= layer < len(stages):
            backbone = getattr(model, 'backbone', model)
            raise LayerError(f'The {owner} has no stage {layer}: {type(backbone).__name__} has stages 0 to '
                             f'{len(stages) - 1}.')
        return stages[layer]
    paths = [name for name, _ in model.named_modules() if name]
    if _split(layer)[0] not in paths:
        raise LayerError(f'Unknown layer {layer!r} in the {owner} ({type(model).__name__}).{_suggest(layer, paths)}')
    return layer


def check_layers(layers: Optional[Sequence[Layer]]) -> Optional[Sequence[Layer]]:
    """Check that ``layers`` is a list or None, and return it.

    Raises:
        ConfigError: It is something else, such as a single layer.
    """
    if layers is not None and not isinstance(layers, (list, tuple, range)):
        raise ConfigError(f'layers must be a list of stage indices and module paths, got {layers!r}.')
    return layers


def gives_attention(model: nn.Module, path: str) -> bool:
    """Whether a layer outputs attention maps, shape (N, H, W), such as ``maps`` of an attention neck.

    Args:
        model (nn.Module): The network.
        path (str): From :func:`find_layer`.
    """
    return bool(getattr(model.get_submodule(_split(path)[0]), 'gives_attention', False))


def _suggest(layer: str, paths: Sequence[str]) -> str:
    name = _split(layer)[0]
    others = [path for path in paths if path and path != name]
    # Without a similar path, list the top-level modules.
    return did_you_mean(name, others) or f' Its modules: {", ".join(repr(path) for path in others if "." not in path)}.'


def _split(path: str) -> tuple:
    """Split ``'a.b[1]'`` into ``('a.b', 1)``, and ``'a.b'`` into ``('a.b', None)``."""
    match = re.fullmatch(r'(.*)\[(\d+)\]', path)
    return (match[1], int(match[2])) if match else (path, None)


class EarlyExit:
    """End the forward pass of a network after the last layer that is read.

    The first forward pass under a :func:`tap` counts the outputs that are read; later passes end at that number.
    """

    def __init__(self):
        self.count = None


class _ExitForward(Exception):
    """Ends a forward pass when all outputs have been read."""


@contextmanager
def tap(model: nn.Module, paths: Sequence[str], owner: str = 'model',
        early_exit: Optional[EarlyExit] = None) -> Iterator[Dict[str, Tensor]]:
    """Collect the outputs of modules within a context.

    The hooks are removed at its end, and no activation outlives the returned dict. The tokens of a transformer's layer
    are returned as activations, shape (N, C, H, W), without the class token.

    Args:
        model (nn.Module): The network.
        paths (Sequence[str]): Paths from :func:`find_layer`.
        owner (str): Name of the network in messages. Defaults to 'model'.
        early_exit (EarlyExit, optional): Ends the forward pass, and the context, once all layers are read. Give the
            same object for every pass of one network with the same paths. Defaults to None: a whole pass.

    Yields:
        dict: path -> output, filled when the context closes.

    Raises:
        LayerError: At the end of the context: a path was not run, was run several times but has no call index, did not
            output one tensor, or its output was overwritten in place by a later layer.
    """
    calls: Dict[str, list] = {_split(path)[0]: [] for path in paths}

    def record(name):

        def hook(module, args, output):
            # Backbones return a tuple of one tensor.
            if isinstance(output, (tuple, list)) and len(output) == 1:
                output = output[0]
            grid = None
            if transformers[name] is not None:
                output, grid = split_grid(output)
            # Compiled code may write in place without changing the result; inference tensors have no version.
            counts = isinstance(output, Tensor) and not torch.compiler.is_compiling() and not output.is_inference()
            version = output._version if counts else None
            calls[name].append((output, version, grid))
            if ends and sum(map(len, calls.values())) == early_exit.count:
                raise _ExitForward

        return hook

    # Compiled code cannot be left early.
    ends = early_exit is not None and early_exit.count is not None and not torch.compiler.is_compiling()
    transformers = {name: token_network(model, name) for name in calls}
    image_sizes = {}

    def record_size(module, args):
        image_sizes[module] = tuple(args[0].shape[-2:])

    handles = [model.get_submodule(name).register_forward_hook(record(name)) for name in calls]
    handles += [module.register_forward_pre_hook(record_size) for module in {*transformers.values()}
                if module is not None]
    taps: Dict[str, Tensor] = {}
    try:
        yield taps
    except _ExitForward:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if early_exit is not None and early_exit.count is None:
        early_exit.count = sum(map(len, calls.values()))
    for path in paths:
        name, index = _split(path)
        outputs = calls[name]
        if not outputs:
            raise LayerError(f'Layer {path!r} of the {owner} was not run in the forward pass.'
                             f'{_suggest(path, [name for name, _ in model.named_modules()])}')
        if index is None and len(outputs) > 1:
            raise LayerError(f'Layer {path!r} of the {owner} was run {len(outputs)} times in one forward pass. '
                             f"Choose a call, '{name}[0]' to '{name}[{len(outputs) - 1}]'.")
        if index is not None and index >= len(outputs):
            raise LayerError(f'Layer {path!r} of the {owner} does not exist: {name!r} was run {len(outputs)} time(s). '
                             f"The last call is '{name}[{len(outputs) - 1}]'.")
        output, version, grid = outputs[index or 0]
        if not isinstance(output, Tensor):
            raise LayerError(f'Layer {path!r} of the {owner} outputs {type(output).__name__}, not one tensor. Choose a '
                             'layer inside it.')
        if version is not None and output._version != version:
            raise LayerError(f'The output of layer {path!r} of the {owner} was overwritten in place by a later layer, '
                             'probably a ReLU. Choose that later layer, or build the network without inplace.')
        transformer = transformers[name]
        if transformer is not None and not gives_attention(model, path):
            try:
                output = read_tokens(transformer, output, image_sizes[transformer], grid)
            except UserError as error:
                raise LayerError(f'Layer {path!r} of the {owner}: {error}') from None
        taps[path] = output
