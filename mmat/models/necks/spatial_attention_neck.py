"""Attention modules (Jetley et al., "Learn to Pay Attention", ICLR 2018, section 3)."""
from typing import Any, Sequence, Tuple

import torch.nn as nn
from torch import Tensor

from mmat.attention import dot_product_compatibility, parametrised_compatibility
from mmat.attention.learned import COMPATIBILITIES
from mmat.errors import ConfigError
from mmat.registry import MODELS

from ..options import check_dropout
from .base import BaseAttentionNeck

PROJECTIONS = ('global', 'local')


@MODELS.register_module()
class SpatialAttentionNeck(BaseAttentionNeck):
    """Score each position of a local feature against the global vector, and pool the feature with these scores.

    With l the local feature and g the global vector (a global map is average pooled), ``c_i = <u, l_i + g>`` for 'pc'
    or ``c_i = <l_i, g>`` for 'dp'; ``a`` is the softmax of ``c`` over positions or its sigmoid; the output is
    ``g_a = sum_i a_i l_i``, or the mean of ``a_i l_i`` for sigmoids. For 'pc' with 'softmax', the term of g is the same
    at every position and cancels, also in the paper. The attention then depends on the local feature only, and does not
    train a global branch that has no other use.

    If the widths of l and g differ, one of them is projected:

    - ``project='global'``, as in the authors' code: g passes BN, ReLU, dropout and a linear layer.
    - ``project='local'``, as in the PyTorch re-implementation: l passes a 1x1 convolution without bias, and the
      projected feature is pooled.

    See :class:`BaseAttentionNeck` for inputs, outputs and access to the maps.

    Args:
        in_channels (Sequence[int]): Channels of the local features: one for att, two for att2, three for att3.
        global_channels (int): Channels of the global feature.
        compatibility (str): 'pc', parametrised, or 'dp', dot product. Defaults to 'pc'.
        bias (bool): Add a bias to the scores of 'pc', as in the authors' code but not in the re-implementation.
            Defaults to True.
        normalization (str): 'softmax' or 'sigmoid'. Defaults to 'softmax'.
        project (str): 'global' or 'local'. Defaults to 'global'.
        dropout (float): Dropout rate before the linear layer of ``project='global'``. Defaults to 0.5, as the authors.
        init_cfg (dict | list, optional): Initialisation. Defaults to the re-implementation's: Xavier-uniform
            convolutions of gain sqrt(2). The authors' (kaiming-normal, fan out), set in their configs, gives the score
            weights a standard deviation of sqrt(2), which saturates the initial attention.

    Raises:
        ConfigError: An option is invalid, or, at run time, the features have another number or width.
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 global_channels: int,
                 compatibility: str = 'pc',
                 bias: bool = True,
                 normalization: str = 'softmax',
                 project: str = 'global',
                 dropout: float = 0.5,
                 init_cfg=dict(type='Xavier', layer='Conv2d', gain=2**0.5, distribution='uniform')):
        super().__init__(in_channels, global_channels, normalization, init_cfg)
        if compatibility not in COMPATIBILITIES:
            raise ConfigError(f'The compatibility of SpatialAttentionNeck must be one of {COMPATIBILITIES}, got '
                              f'{compatibility!r}.')
        if project not in PROJECTIONS:
            raise ConfigError(f'The project option of SpatialAttentionNeck must be one of {PROJECTIONS}, got '
                              f'{project!r}.')
        check_dropout(dropout, 'SpatialAttentionNeck')
        self.compatibility = compatibility
        self.project = project
        self.projections = nn.ModuleList(
            nn.Identity() if width == global_channels else
            nn.Conv2d(width, global_channels, 1, bias=False) if project == 'local' else
            nn.Sequential(nn.BatchNorm1d(global_channels), nn.ReLU(inplace=False), nn.Dropout(dropout),
                          nn.Linear(global_channels, width))
            for width in self.in_channels)
        if compatibility == 'pc':
            # 1x1 convolutions as holders of weights, see parametrised_compatibility.
            self.scores = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=bias) for width in self.out_channels)

    @property
    def out_channels(self) -> Tuple[int, ...]:
        """Channels of the pooled vectors."""
        return (self.global_channels, ) * len(self.in_channels) if self.project == 'local' else self.in_channels

    def score(self, level: int, local: Tensor, descriptor: Tensor) -> Tuple[Tensor, Tensor]:
        descriptor = descriptor.mean((2, 3)) if descriptor.dim() == 4 else descriptor
        if self.project == 'local':
            local = self.projections[level](local)
        else:
            descriptor = self.projections[level](descriptor)
        if self.compatibility == 'dp':
            return local, dot_product_compatibility(local, descriptor)
        conv: Any = self.scores[level]
        return local, parametrised_compatibility(local, descriptor, conv.weight.view(-1), conv.bias)
