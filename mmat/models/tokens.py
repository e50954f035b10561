"""Layers of transformers: their tokens read as activations."""
from typing import Optional, Tuple
from weakref import WeakKeyDictionary

import torch.nn as nn
from torch import Tensor

from mmat.attention import tokens_to_features
from mmat.attention.tokens import token_grid

# What transformers, mmpretrain's and timm's, have and other networks have not.
_SIGNS = ('patch_embed', 'num_extra_tokens', 'num_prefix_tokens', 'output_fmt')


# Network -> layer -> name of the transformer that it is part of: looking for it takes longer than reading the layer.
_known = WeakKeyDictionary()


def token_network(model: nn.Module, path: str) -> Optional[nn.Module]:
    """The transformer that a layer is part of, the innermost; None where it is part of none.

    Args:
        model (nn.Module): The network.
        path (str): Module path of the layer.
    """
    known = _known.setdefault(model, {})
    if path not in known:
        known[path] = _find_token_network(model, path)
    return None if known[path] is None else model.get_submodule(known[path])


def _find_token_network(model: nn.Module, path: str) -> Optional[str]:
    names = path.split('.')
    for end in reversed(range(len(names) + 1)):
        module = model.get_submodule('.'.join(names[:end]))
        children = {type(child).__name__ for child in module.children()}
        if any(hasattr(module, sign) for sign in _SIGNS) or 'PatchEmbed' in children:
            return '.'.join(names[:end])
    return None


def split_grid(output) -> tuple:
    """``(tokens, (rows, columns))``, which mmpretrain's Swin Transformers give, as it is; else ``(output, None)``."""
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor):
        grid = output[1]
        if isinstance(grid, (tuple, list)) and all(isinstance(each, int) for each in grid):
            return output[0], tuple(grid)
    return output, None


def read_tokens(network: nn.Module, output: Tensor, image_size: Tuple[int, int],
                grid: Optional[Tuple[int, int]] = None) -> Tensor:
    """The output of a transformer's layer as activations, (N, C, H, W); what are no tokens is given back as it is.

    Args:
        network (nn.Module): From :func:`token_network`.
        output (Tensor): Of the layer.
        image_size (tuple): Height and width of the image that the network was given.
        grid (tuple, optional): Rows and columns of the tokens, where the layer tells. Defaults to None.

    Raises:
        ValueError: Tokens that are no grid of patches.
    """
    if output.dim() == 3 and grid:
        return output.transpose(1, 2).unflatten(2, grid)
    if output.dim() == 3:
        prefix = getattr(network, 'num_extra_tokens', getattr(network, 'num_prefix_tokens', 0))
        return tokens_to_features(output, image_size, prefix)
    if output.dim() == 4 and _has_channels_last(network, output.shape[1:], tuple(image_size)):
        return output.permute(0, 3, 1, 2)
    return output


def _has_channels_last(network: nn.Module, shape: Tuple[int, int, int], image_size: Tuple[int, int]) -> bool:
    """Whether a layer gives (N, H, W, C), as those of timm's Swin and others' do: not all of them say so."""
    if getattr(network, 'output_fmt', None) == 'NHWC':
        return True
    first, second, third = shape
    return (token_grid(first * second, image_size) == (first, second)
            and token_grid(second * third, image_size) != (second, third))
