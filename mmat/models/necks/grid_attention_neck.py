"""Attention gates (Schlemper et al., "Attention Gated Networks", 2018, arXiv 1808.08114, section 3)."""
from typing import Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmat.registry import MODELS

from ..options import check_number
from .base import BaseAttentionNeck


@MODELS.register_module()
class GridAttentionNeck(BaseAttentionNeck):
    """Additive attention gates: ``c = phi(relu(W_l l + upsample(W_g g)))``, at every position of the local feature.

    The gate g is a map, resized bilinearly to the local feature, or a vector used at every position. ``W_l``, ``W_g``
    and ``phi`` are 1x1 convolutions; ``phi`` has one output channel and is the only one with a bias. The pooled vector
    is ``sum_i a_i l_i`` for 'softmax' and the mean of ``a_i l_i`` for 'sigmoid'.

    See :class:`BaseAttentionNeck` for inputs, outputs and access to the maps.

    Args:
        in_channels (Sequence[int]): Channels of the local features.
        global_channels (int): Channels of the gate.
        inter_channels (int): Channels of ``W_l l`` and ``W_g g``. Defaults to 256.
        normalization (str): 'softmax' or 'sigmoid'. Defaults to 'sigmoid', as in
            the source.
        init_cfg (dict | list, optional): Initialisation. Defaults to kaiming-normal convolutions (fan in).

    Raises:
        ConfigError: An option is invalid, or, at run time, the features have another number or width.
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 global_channels: int,
                 inter_channels: int = 256,
                 normalization: str = 'sigmoid',
                 init_cfg=dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='relu')):
        super().__init__(in_channels, global_channels, normalization, init_cfg)
        check_number(inter_channels, 'inter_channels', 'GridAttentionNeck')
        self.local_convs = nn.ModuleList(nn.Conv2d(width, inter_channels, 1, bias=False) for width in in_channels)
        self.gate_convs = nn.ModuleList(nn.Conv2d(global_channels, inter_channels, 1, bias=False) for _ in in_channels)
        self.scores = nn.ModuleList(nn.Conv2d(inter_channels, 1, 1) for _ in in_channels)

    def score(self, level: int, local: Tensor, descriptor: Tensor) -> Tuple[Tensor, Tensor]:
        gate = descriptor if descriptor.dim() == 4 else descriptor[:, :, None, None]
        # Convolve before resizing: cheaper, and equal because the two operations commute.
        gate = self.gate_convs[level](gate)
        # A trace always resizes, so that it holds for images of other sizes.
        if torch.jit.is_tracing() or gate.shape[-2:] not in (local.shape[-2:], (1, 1)):
            gate = F.interpolate(gate, local.shape[-2:], mode='bilinear', align_corners=False)
        return local, self.scores[level](F.relu(self.local_convs[level](local) + gate)).squeeze(1)
