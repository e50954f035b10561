"""Attention maps of a network."""
from typing import Dict, List, Optional, Sequence

import torch
import torch.nn as nn
from mmengine.model import BaseModel
from torch import Tensor

from mmat.attention import attention_map
from mmat.attention.precision import at_least_float32

from .stages import stage_paths
from .taps import Layer, check_layers, find_layer, gives_attention, tap


def attention_layers(model: nn.Module) -> List[str]:
    """Return the default layers to visualise: learned attention maps, or else the stages of the backbone."""
    learned = [path for path, module in model.named_modules() if getattr(module, 'gives_attention', False)]
    return learned or stage_paths(model)


def as_attention(output: Tensor, is_map: bool, p: float, reduction: str) -> Tensor:
    """Return a learned map (N, H, W) unchanged, or the map F^p of activations (N, C, H, W), in float32 or float64."""
    return at_least_float32(output) if is_map else attention_map(output, p, reduction)


@torch.no_grad()
def get_attention_maps(model: BaseModel,
                       images: Tensor,
                       layers: Optional[Sequence[Layer]] = None,
                       p: float = 2,
                       reduction: str = 'sum') -> Dict[str, Tensor]:
    """Compute the attention maps of a batch of images.

    A layer that outputs attention maps, such as ``'neck.maps.0'`` of an attention neck, is returned unchanged. For any
    other layer the map is F^p of its activations.

    Args:
        model (nn.Module): A model from :func:`mmat.get_model`.
        images (Tensor): Inputs of its data preprocessor, shape (N, C, H, W), 0 to 255.
        layers (Sequence[int | str], optional): Stage indices or module paths. Defaults to None: all maps of an
            attention neck, or all stages of a network without one.
        p (float): Power of the maps of activations. Defaults to 2.
        reduction (str): 'sum' or 'max' over channels. Defaults to 'sum'.

    Returns:
        dict: Module path -> maps of shape (N, h, w), float32.

    Raises:
        LayerError: A layer does not exist or was not run.
    """
    paths = [find_layer(model, layer) for layer in check_layers(layers) or attention_layers(model)]
    inputs = model.data_preprocessor(dict(inputs=images), training=False)['inputs']
    with tap(model, paths) as features:
        model(inputs, mode='tensor')
    return {path: as_attention(features[path], gives_attention(model, path), p, reduction) for path in paths}
