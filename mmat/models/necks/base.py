"""Base classes of attention necks."""
from abc import ABCMeta, abstractmethod
from typing import Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from mmat.attention import attend, normalize_scores
from mmat.attention.learned import check_normalization
from mmat.errors import ConfigError

from ..options import check_number, check_widths


class AttentionWeights(nn.Module):
    """Normalise scores (N, H, W) to attention maps (N, H, W), as a module whose output can be read by its path.

    ``gives_attention`` marks modules that output attention maps. Transfer heads and visualisations use such outputs
    directly, and compute the attention map of any other layer. Custom modules can set it too.
    """

    gives_attention = True

    def __init__(self, normalization: str):
        super().__init__()
        self.normalization = normalization

    def forward(self, scores: Tensor) -> Tensor:
        return normalize_scores(scores, self.normalization)

    def extra_repr(self) -> str:
        return f'normalization={self.normalization!r}'


class BaseAttentionNeck(BaseModule, metaclass=ABCMeta):
    """Base class for necks that pool local features with attention computed from a global feature.

    The input is the output tuple of a backbone: the local features, (N, C_i, H_i, W_i), followed by the global feature,
    a vector (N, C) or a map (N, C, H, W). Without a global feature, as with backbones that return only their stages,
    the last local feature serves as both.

    The output is a tuple of one pooled vector for each local feature, (N, out_channels[i]). The attention maps,
    (N, H_i, W_i), are the outputs of the modules ``maps.0``, ``maps.1``, ... Read them like any layer, as
    ``'neck.maps.0'`` in a transfer head or in :func:`mmat.models.get_attention_maps`. Maps that are not read are not
    stored.

    Subclasses implement :meth:`score`.

    Args:
        in_channels (Sequence[int]): Channels of the local features.
        global_channels (int): Channels of the global feature.
        normalization (str): 'softmax' over positions or 'sigmoid'.
        init_cfg (dict | list, optional): Initialisation.

    Raises:
        ConfigError: An option is invalid, or, at run time, the features have another number or width.
    """

    def __init__(self, in_channels: Sequence[int], global_channels: int, normalization: str, init_cfg=None):
        super().__init__(init_cfg)
        self.in_channels = check_widths(in_channels, 'in_channels', type(self).__name__)
        check_normalization(normalization)
        self.global_channels = check_number(global_channels, 'global_channels', type(self).__name__)
        self.normalization = normalization
        self.maps = nn.ModuleList(AttentionWeights(normalization) for _ in self.in_channels)

    @property
    def out_channels(self) -> Tuple[int, ...]:
        """Channels of the pooled vectors."""
        return self.in_channels

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        if not torch.jit.is_tracing():  # traced sizes are tensors, and a traced check would be a warning
            self._check_shapes(inputs)
        pooled = []
        for level, local in enumerate(inputs[:len(self.in_channels)]):
            local, scores = self.score(level, local, inputs[-1])
            pooled.append(attend(local, self.maps[level](scores), self.normalization))
        return tuple(pooled)

    def _check_shapes(self, inputs: Sequence[Tensor]) -> None:
        levels = len(self.in_channels)
        shapes = [tuple(each.shape) for each in inputs]
        if (len(inputs) not in (levels, levels + 1) or any(len(shape) != 4 for shape in shapes[:levels])
                or tuple(shape[1] for shape in shapes[:levels]) != self.in_channels or len(shapes[-1]) not in (2, 4)
                or shapes[-1][1] != self.global_channels or any(shape[0] != shapes[0][0] for shape in shapes)):
            raise ConfigError(
                f'{type(self).__name__} needs local features (N, C, H, W) of {self.in_channels} channels and a global '
                f'feature of {self.global_channels} channels (by default the last local one), got {shapes}. Check '
                'out_indices of the backbone.')

    @abstractmethod
    def score(self, level: int, local: Tensor, descriptor: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the feature to pool, (N, out_channels[level], H, W), and its scores, (N, H, W).

        Args:
            level (int): Index of the local feature.
            local (Tensor): Local feature, shape (N, C, H, W).
            descriptor (Tensor): Global feature, (N, C) or (N, C, H, W).
        """
