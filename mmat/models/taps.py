"""Reading the outputs of inner layers: names to modules, and modules to tensors."""
import re
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Dict, Iterator, Optional, Sequence, Union

import torch
import torch.nn as nn
from torch import Tensor

from .stages import stage_paths
from .tokens import read_tokens, split_grid, token_network

Layer = Union[int, str]


def find_layer(model: nn.Module, layer: Layer, owner: str = 'model') -> str:
    """Turn a layer as written in a config into a module path of ``model``, with its call index where it has one.

    Args:
        model (nn.Module): The network.
        layer (int | str): A stage of the backbone, see :func:`mmat.models.stages.stage_paths` (negative indices count
            from the end; of a plain transformer the stages are its layers), or a module path such as
            ``'backbone.group1'``. ``'path[1]'`` is the output of the module's second call in a forward pass.
        owner (str): How messages call the network. Defaults to 'model'.

    Returns:
        str: The path, such as ``'backbone.group1'`` or ``'backbone.relu[1]'``.

    Raises:
        ValueError: Nothing there; the message names the closest paths.
        TypeError: Neither an int nor a str.
    """
    if isinstance(layer, bool) or not isinstance(layer, (int, str)):
        raise TypeError(f'a layer is a stage index or a module path, got {layer!r}')
    if isinstance(layer, int):
        stages = stage_paths(model)
        if not stages:
            raise ValueError(f'{owner} ({type(model).__name__}) has no backbone whose stages can be told, so {layer} '
                             'means no layer of it; give a module path')
        if not -len(stages) <= layer < len(stages):
            backbone = getattr(model, 'backbone', model)
            raise ValueError(f'{owner} has no stage {layer}: its {type(backbone).__name__} has {len(stages)} stages '
                             f'(0 to {len(stages) - 1})')
        return stages[layer]
    paths = [name for name, _ in model.named_modules() if name]
    if _split(layer)[0] not in paths:
        raise ValueError(f'{owner} ({type(model).__name__}) has no layer {layer!r}; {_closest(layer, paths)}')
    return layer


def check_layers(layers: Optional[Sequence[Layer]]) -> Optional[Sequence[Layer]]:
    """The layers, or None where there are none given.

    Raises:
        ValueError: One layer where a list of them belongs.
    """
    if layers is not None and not isinstance(layers, (list, tuple, range)):
        raise ValueError(f'layers must be a list of stage indices and module paths, got {layers!r}')
    return layers


def gives_attention(model: nn.Module, path: str) -> bool:
    """Whether a layer's output is an attention map, (N, H, W), already, as that of an attention neck's ``maps``.

    Args:
        model (nn.Module): The network.
        path (str): From :func:`find_layer`.
    """
    return bool(getattr(model.get_submodule(_split(path)[0]), 'gives_attention', False))


def _closest(layer: str, paths: Sequence[str]) -> str:
    name = _split(layer)[0]
    others = [path for path in paths if path and path != name]
    # Nothing alike: the outermost modules show how this network's paths begin.
    close = get_close_matches(name, others, n=3, cutoff=0.4) or [path for path in others if '.' not in path]
    return f'the closest are {", ".join(map(repr, close))}'


def _split(path: str) -> tuple:
    """``'a.b[1]'`` as ``('a.b', 1)``, ``'a.b'`` as ``('a.b', None)``."""
    match = re.fullmatch(r'(.*)\[(\d+)\]', path)
    return (match[1], int(match[2])) if match else (path, None)


class EarlyExit:
    """Lets a network be run no further than to the last layer that is read.

    The first forward pass under a :func:`tap` counts the outputs that it reads; those that follow end at as many.
    """

    def __init__(self):
        self.count = None


class _ExitForward(Exception):
    """All that is read has been."""


@contextmanager
def tap(model: nn.Module, paths: Sequence[str], owner: str = 'model',
        early_exit: Optional[EarlyExit] = None) -> Iterator[Dict[str, Tensor]]:
    """Collect the outputs of some modules for as long as the context lasts.

    The hooks are removed at its end: nothing stays on the network and no activation outlives the returned dict. The
    tokens of a transformer's layer arrive as activations, (N, C, H, W), without its class token.

    Args:
        model (nn.Module): The network.
        paths (Sequence[str]): Paths from :func:`find_layer`.
        owner (str): How messages call the network. Defaults to 'model'.
        early_exit (EarlyExit, optional): Ends the forward pass, and with it the context, once all layers are read. Give
            the same one for each pass of one network and the same paths. Defaults to None: the pass is a whole one.

    Yields:
        dict: path -> output, filled when the context closes.

    Raises:
        ValueError: At the end of the context: a path that was not run, was run several times without an index, gave
            something else than one tensor, or whose output a later layer overwrote in place.
    """
    calls = {_split(path)[0]: [] for path in paths}

    def record(name):

        def hook(module, args, output):
            # A tuple of one is what backbones return; its tensor is meant.
            if isinstance(output, (tuple, list)) and len(output) == 1:
                output = output[0]
            grid = None
            if transformers[name] is not None:
                output, grid = split_grid(output)
            # Compiled code writes in place where it pleases, and keeps the meaning; inference tensors do not count.
            counts = isinstance(output, Tensor) and not torch.compiler.is_compiling() and not output.is_inference()
            version = output._version if counts else None
            calls[name].append((output, version, grid))
            if ends and sum(map(len, calls.values())) == early_exit.count:
                raise _ExitForward

        return hook

    # Compiled code is one piece.
    ends = early_exit is not None and early_exit.count is not None and not torch.compiler.is_compiling()
    transformers = {name: token_network(model, name) for name in calls}
    image_sizes = {}

    def record_size(module, args):
        image_sizes[module] = tuple(args[0].shape[-2:])

    handles = [model.get_submodule(name).register_forward_hook(record(name)) for name in calls]
    handles += [module.register_forward_pre_hook(record_size) for module in {*transformers.values()} - {None}]
    taps = {}
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
            raise ValueError(f'{owner}: layer {path!r} exists but was not run in the forward pass; '
                             f'{_closest(path, [name for name, _ in model.named_modules()])}')
        if index is None and len(outputs) > 1:
            raise ValueError(f'{owner}: layer {path!r} was run {len(outputs)} times in one forward pass; say which '
                             f"call is meant, '{name}[0]' to '{name}[{len(outputs) - 1}]'")
        if index is not None and index >= len(outputs):
            raise ValueError(f'{owner}: layer {path!r} asks for call {index}, but {name!r} was run {len(outputs)} '
                             f"time(s); the last is '{name}[{len(outputs) - 1}]'")
        output, version, grid = outputs[index or 0]
        if not isinstance(output, Tensor):
            raise ValueError(f'{owner}: layer {path!r} gives {type(output).__name__}, not one tensor; name a layer '
                             'inside it')
        if version is not None and output._version != version:
            raise ValueError(f'{owner}: the output of layer {path!r} was overwritten in place by a later layer (an '
                             'inplace ReLU, most likely); name that later layer, or build the network without inplace')
        transformer = transformers[name]
        if transformer is not None and not gives_attention(model, path):
            try:
                output = read_tokens(transformer, output, image_sizes[transformer], grid)
            except ValueError as error:
                raise ValueError(f'{owner}: layer {path!r}: {error}') from None
        taps[path] = output
