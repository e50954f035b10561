"""Activation-based attention transfer (Zagoruyko & Komodakis, ICLR 2017, equation 2)."""
from typing import Dict, List, Sequence, Set, Tuple, Union

import torch.nn as nn
from torch import Tensor

from mmat.attention import attention_distance
from mmat.attention.distance import check_distance_options
from mmat.attention.maps import check_map_options
from mmat.errors import ConfigError
from mmat.registry import MODELS

from ..attention_maps import as_attention
from ..taps import Layer, gives_attention
from .base import BaseATHead, NetworkOutputs


@MODELS.register_module()
class ActivationATHead(BaseATHead):
    """Match the student's activation attention maps to the teacher's.

    The loss of a pair is ``attention_distance(attention_map(student), attention_map(teacher))``. The sum over pairs is
    multiplied by beta for ``form='code'`` and by beta / 2 for ``form='paper'``. The scales of the two forms differ:
    'code' divides by the number of positions. Use beta = 1e3 with 'code', and about 0.1 with 'paper'.

    A layer that outputs an attention map, such as ``'neck.maps.0'`` of an attention neck, is compared as it is. Learned
    maps, those of a softmax above all, are peaked, so their unit vectors are further apart: use beta = 100 or less with
    'code'.

    Args:
        pairs (Sequence): Pairs ``(student_layer, teacher_layer)`` of stage indices or module paths.
        weight (float | dict): beta, or its schedule. Defaults to 1e3, the authors' value for 'code'.
        form (str): 'code', the authors' code, or 'paper', equation 2. Defaults to 'code'.
        p (float): Power of the map, F^p, at least 1. Defaults to 2.
        reduction (str): Reduction over channels: 'sum' (F_sum^p) or 'max' (F_max^p). Defaults to 'sum'.
        size_mismatch (str): For maps of unequal size: 'pool' average pools the larger to the size of the smaller,
            'error' raises. Defaults to 'pool'.
        name (str): Name of the loss in logs. Defaults to 'at'.

    Raises:
        UserError: ``pairs`` is missing or an option is out of range.
    """

    def __init__(self,
                 pairs: Sequence[Tuple[Layer, Layer]],
                 weight: Union[float, dict] = 1e3,
                 form: str = 'code',
                 p: float = 2,
                 reduction: str = 'sum',
                 size_mismatch: str = 'pool',
                 name: str = 'at'):
        if pairs is None:
            raise ConfigError('Attention transfer needs pairs=[(student_layer, teacher_layer), ...].')
        check_map_options(p, reduction)
        check_distance_options(form, 2, size_mismatch)
        super().__init__(pairs, weight, name)
        self.form = form
        self.p = p
        self.reduction = reduction
        self.size_mismatch = size_mismatch
        # Layers whose outputs are attention maps.
        self._student_maps: Set[Layer] = set()
        self._teacher_maps: Set[Layer] = set()

    def resolve_student(self, student: nn.Module) -> None:
        super().resolve_student(student)
        self._student_maps = {layer for layer, path in zip(self.student_layers, self.student_paths)
                              if gives_attention(student, path)}

    def resolve_teacher(self, teacher: nn.Module) -> None:
        super().resolve_teacher(teacher)
        self._teacher_maps = {layer for layer, path in zip(self.teacher_layers, self.teacher_paths)
                              if gives_attention(teacher, path)}

    def _attention(self, outputs: NetworkOutputs, layers: List[Layer], are_maps: Set[Layer]) -> List[Tensor]:
        maps = {layer: as_attention(outputs.features[layer], layer in are_maps, self.p, self.reduction)
                for layer in dict.fromkeys(layers)}
        return [maps[layer] for layer in layers]

    def reduce_teacher(self, teacher: NetworkOutputs) -> List[Tensor]:
        """Compute the teacher's map of each pair, shape (N, H, W)."""
        return self._attention(teacher, self.teacher_layers, self._teacher_maps)

    @property
    def factor(self) -> float:
        return self.weight if self.form == 'code' else self.weight / 2

    def loss(self, student: NetworkOutputs, teacher: List[Tensor]) -> Dict[str, Tensor]:
        maps = self._attention(student, self.student_layers, self._student_maps)
        return {
            label: attention_distance(student_map, teacher_map, form=self.form, size_mismatch=self.size_mismatch)
            for label, student_map, teacher_map in zip(self.labels, maps, teacher)
        }
