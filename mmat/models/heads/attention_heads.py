"""Classifiers on pooled vectors (Jetley et al., "Learn to Pay Attention", ICLR 2018, section 3.2)."""
import math
from typing import Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmat.attention.precision import at_least_float32
from mmat.errors import ConfigError
from mmat.registry import MODELS

from ..options import check_dropout, check_widths
from .linear_head import LinearClsHead

COMBINATIONS = ('average', 'sum')


@MODELS.register_module()
class ConcatClsHead(LinearClsHead):
    """One linear classifier on the concatenated vectors of all levels, the paper's 'concat'.

    As in the authors' code, each vector first passes BN, ReLU and dropout.

    Args:
        num_classes (int): Number of classes.
        in_channels (Sequence[int]): Channels of the vectors, the neck's ``out_channels``.
        norm (bool): Apply BN and ReLU first. The re-implementation has neither. In training, BN needs batches of at
            least two images. Defaults to True.
        dropout (float): Dropout rate before the classifier. Defaults to 0.5, as the authors.
        init_cfg (dict | list, optional): Initialisation. Defaults to the authors': BN weights uniform in [0, 1), BN
            biases 0, torch's default for linear layers.
        **kwargs: Arguments of mmpretrain's LinearClsHead.

    Raises:
        ConfigError: An option is invalid, or, at run time, the vectors have another number or width.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: Sequence[int],
                 norm: bool = True,
                 dropout: float = 0.5,
                 init_cfg=dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0),
                 **kwargs):
        widths = check_widths(in_channels, 'in_channels', type(self).__name__)
        super().__init__(num_classes=num_classes, in_channels=sum(widths), init_cfg=init_cfg, **kwargs)
        self.widths = widths
        # BN is channel-wise, so it can act on the concatenated vectors.
        layers = [nn.BatchNorm1d(self.in_channels), nn.ReLU(inplace=False)] if norm else []
        self.transform = nn.Sequential(*layers, nn.Dropout(check_dropout(dropout, type(self).__name__)))

    def pre_logits(self, feats: Tuple[Tensor, ...]) -> Tensor:
        """Return the input of the classifier, shape (N, sum of in_channels)."""
        if not torch.jit.is_tracing() and tuple(each.shape[1:] for each in feats) != tuple(
                (width, ) for width in self.widths):
            raise ConfigError(f'{type(self).__name__} needs one vector for each of {self.widths} channels, got '
                              f'{[tuple(each.shape) for each in feats]}.')
        return self.transform(torch.cat(tuple(feats), dim=1))


@MODELS.register_module()
class IndependentClsHead(ConcatClsHead):
    """One linear classifier for each level, with combined predictions, the paper's 'indep'.

    Args:
        combine (str): 'average', the mean of the levels' probabilities, as in the paper, or 'sum', the sum of their
            logits, as in the authors' code. Defaults to 'average'.
        **kwargs: Arguments of :class:`ConcatClsHead`.

    Raises:
        ConfigError: An option is invalid, or, at run time, the vectors have another number or width.
    """

    def __init__(self, *args, combine: str = 'average', **kwargs):
        super().__init__(*args, **kwargs)
        if combine not in COMBINATIONS:
            raise ConfigError(f'The combine option of IndependentClsHead must be one of {COMBINATIONS}, got '
                              f'{combine!r}.')
        self.combine = combine
        self.fc = nn.ModuleList(nn.Linear(width, self.num_classes) for width in self.widths)

    def forward(self, feats: Tuple[Tensor, ...]) -> Tensor:
        """Return logits of shape (N, num_classes); for 'average', the logarithm of the mean probability."""
        vectors = self.pre_logits(feats).split(self.widths, dim=1)
        logits = torch.stack([fc(vector) for fc, vector in zip(self.fc, vectors)])
        if self.combine == 'sum':
            return logits.sum(dim=0)
        # Softmax and cross-entropy of these logits are those of the mean probability.
        return F.log_softmax(at_least_float32(logits), dim=-1).logsumexp(dim=0) - math.log(len(self.widths))
