"""What the attention necks have in common."""
from abc import ABCMeta, abstractmethod
from typing import Sequence, Tuple

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from mmat.attention import attend, normalize_scores
from mmat.attention.learned import check_normalization

from ..options import check_number, check_widths


class AttentionWeights(nn.Module):
    """Turns scores into attention, (N, H, W) to (N, H, W); a module so that whoever wants the maps can tap it.

    ``gives_attention`` tells transfer heads and pictures that the output is an attention map already: they take it as
    it is, where they make a map of any other layer's activations. Modules of other repositories may say the same.
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
    """Pools each of several local features under attention that a global feature steers.

    A backbone's outputs arrive as a tuple: the local features, (N, C_i, H_i, W_i), and last the global one, a vector
    (N, C) or a map, (N, C, H, W). Where there is none beside the local features, as with backbones that give their
    stages' outputs only, the last local feature is the global one too.

    The result is a tuple of one pooled vector a local feature, (N, out_channels[i]). The attention maps, (N, H_i, W_i),
    are what the modules ``maps.0``, ``maps.1``, ... give: read as any layer is, ``'neck.maps.0'`` in a transfer head
    or in :func:`mmat.models.get_attention_maps`; nothing is kept or copied when nobody reads them.

    Subclasses make scores of a level in :meth:`score`.

    Args:
        in_channels (Sequence[int]): Channels of the local features.
        global_channels (int): Channels of the global feature.
        normalization (str): 'softmax' over positions or 'sigmoid'.
        init_cfg (dict | list, optional): Initialisation.

    Raises:
        ValueError: An option outside these; at run time, features of another number or width.
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
        """Widths of the pooled vectors."""
        return self.in_channels

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        levels = len(self.in_channels)
        shapes = [tuple(each.shape) for each in inputs]
        if (len(inputs) not in (levels, levels + 1) or any(len(shape) != 4 for shape in shapes[:levels])
                or tuple(shape[1] for shape in shapes[:levels]) != self.in_channels or len(shapes[-1]) not in (2, 4)
                or shapes[-1][1] != self.global_channels or len({shape[0] for shape in shapes}) != 1):
            raise ValueError(
                f'{type(self).__name__} expects local features of shape (N, C, H, W) with {self.in_channels} channels '
                f'and a global feature with {self.global_channels} (or none, where it is the last of them), got '
                f'{shapes}; see out_indices of the backbone')
        pooled = []
        for level, local in enumerate(inputs[:levels]):
            local, scores = self.score(level, local, inputs[-1])
            pooled.append(attend(local, self.maps[level](scores), self.normalization))
        return tuple(pooled)

    @abstractmethod
    def score(self, level: int, local: Tensor, descriptor: Tensor) -> Tuple[Tensor, Tensor]:
        """What to pool of a local feature, (N, out_channels[level], H, W), and its scores, (N, H, W).

        Args:
            level (int): Which local feature.
            local (Tensor): Itself, shape (N, C, H, W).
            descriptor (Tensor): The global feature, (N, C) or (N, C, H, W).
        """
