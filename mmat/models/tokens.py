"""Read the tokens of transformer layers as activations."""
from typing import Dict, Optional, Sequence, Tuple
from weakref import WeakKeyDictionary

import torch.nn as nn
from torch import Tensor

from mmat.attention import tokens_to_features
from mmat.attention.tokens import token_grid

# Attributes that identify the transformers of mmpretrain and timm.
_TRANSFORMER_ATTRIBUTES = ('patch_embed', 'num_extra_tokens', 'num_prefix_tokens', 'output_fmt')

# Network -> layer -> path of its transformer. Cached, because the search takes longer than reading the layer.
_cache: WeakKeyDictionary[nn.Module, Dict[str, Optional[str]]] = WeakKeyDictionary()


def token_network(model: nn.Module, path: str) -> Optional[nn.Module]:
    """Return the innermost transformer that contains a layer, or None.

    Args:
        model (nn.Module): The network.
        path (str): Module path of the layer.
    """
    cached = _cache.setdefault(model, {})
    if path not in cached:
        cached[path] = _find_token_network(model, path)
    found = cached[path]
    return None if found is None else model.get_submodule(found)


def _find_token_network(model: nn.Module, path: str) -> Optional[str]:
    names = path.split('.')
    for end in reversed(range(len(names) + 1)):
        module = model.get_submodule('.'.join(names[:end]))
        children = {type(child).__name__ for child in module.children()}
        if any(hasattr(module, name) for name in _TRANSFORMER_ATTRIBUTES) or 'PatchEmbed' in children:
            return '.'.join(names[:end])
    return None


def split_grid(output) -> tuple:
    """Split ``(tokens, (rows, columns))``, the output of mmpretrain's Swin Transformers; else return (output, None)."""
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor):
        grid = output[1]
        if isinstance(grid, (tuple, list)) and all(isinstance(each, int) for each in grid):
            return output[0], tuple(grid)
    return output, None


def read_tokens(network: nn.Module, output: Tensor, image_size: Tuple[int, int],
                grid: Optional[Tuple[int, int]] = None) -> Tensor:
    """Convert the tokens of a transformer layer to activations, (N, C, H, W); return any other output unchanged.

    Args:
        network (nn.Module): The transformer, from :func:`token_network`.
        output (Tensor): Output of the layer.
        image_size (tuple): Height and width of the network's input.
        grid (tuple, optional): Rows and columns of the tokens, if the layer returns them. Defaults to None.

    Raises:
        UserError: The number of tokens matches no grid of patches.
    """
    if output.dim() == 3 and grid:
        return output.transpose(1, 2).unflatten(2, grid)
    if output.dim() == 3:
        prefix = getattr(network, 'num_extra_tokens', getattr(network, 'num_prefix_tokens', 0))
        return tokens_to_features(output, image_size, prefix)
    if output.dim() == 4 and _has_channels_last(network, output.shape[1:], image_size):
        return output.permute(0, 3, 1, 2)
    return output


def _has_channels_last(network: nn.Module, shape: Sequence[int], image_size: Tuple[int, int]) -> bool:
    """Detect outputs (N, H, W, C), such as those of timm's Swin. Some networks do not declare this layout."""
    if getattr(network, 'output_fmt', None) == 'NHWC':
        return True
    first, second, third = shape
    return (token_grid(first * second, image_size) == (first, second)
            and token_grid(second * third, image_size) != (second, third))
