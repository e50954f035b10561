"""The attention of a network."""
from typing import Dict, Optional, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from mmat.attention import attention_map
from mmat.models.taps import Layer, find_layer, stage_paths, tap


@torch.no_grad()
def get_attention_maps(model: nn.Module,
                       images: Tensor,
                       layers: Optional[Sequence[Layer]] = None,
                       p: float = 2,
                       reduction: str = 'sum') -> Dict[str, Tensor]:
    """Attention maps of a batch of images.

    Args:
        model (nn.Module): A model from :func:`mmat.get_model`.
        images (Tensor): As its data preprocessor takes them: (N, C, H, W), 0 to 255.
        layers (Sequence[int | str], optional): Stage indices or module paths. Defaults to None, every stage.
        p (float): Power of the map. Defaults to 2.
        reduction (str): 'sum' or 'max' over channels. Defaults to 'sum'.

    Returns:
        dict: Module path -> maps of shape (N, h, w), float32.

    Raises:
        ValueError: A layer that does not exist or was not run.
    """
    if layers is None:
        layers = range(len(stage_paths(getattr(model, 'backbone', None))))
    paths = [find_layer(model, layer) for layer in layers]
    inputs = model.data_preprocessor(dict(inputs=images), training=False)['inputs']
    with tap(model, paths) as features:
        model(inputs, mode='tensor')
    return {path: attention_map(features[path], p, reduction) for path in paths}
