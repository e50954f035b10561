"""Activation-based attention transfer (Zagoruyko & Komodakis, ICLR 2017, equation 2)."""
from typing import Dict, Sequence, Tuple, Union

import torch.nn as nn
from torch import Tensor

from mmat.attention import attention_distance
from mmat.attention.distance import check_distance_options
from mmat.attention.maps import check_map_options
from mmat.registry import MODELS

from ..attention_maps import as_attention
from ..taps import Layer, gives_attention
from .base import BaseATHead, NetworkOutputs


@MODELS.register_module()
class ActivationATHead(BaseATHead):
    """Pulls the student's activation attention maps towards the teacher's.

    The loss of a pair is ``attention_distance(attention_map(student), attention_map(teacher))``; their sum is
    multiplied by beta for ``form='code'`` and by beta / 2 for ``form='paper'``. The two forms differ in scale by far:
    'code' divides by the number of positions, so beta = 1e3 belongs to it, and 0.1 or so to 'paper'.

    A layer whose output is an attention map already, such as ``'neck.maps.0'`` of an attention neck, is taken as it is:
    attention that the teacher has learned, or that the student shall learn. Such maps are peaked, a softmax's most of
    all, so that their unit vectors lie further apart: beta = 100 or less belongs to them in 'code'.

    Args:
        pairs (Sequence): ``(student_layer, teacher_layer)`` couples: stage indices or module paths.
        weight (float | dict): beta, or its schedule. Defaults to 1e3, the authors' for 'code'.
        form (str): 'code', the authors' code, or 'paper', equation 2. Defaults to 'code'.
        p (float): Power of the map, F^p, at least 1. Defaults to 2.
        reduction (str): 'sum' (F_sum^p) or 'max' (F_max^p) over channels. Defaults to 'sum'.
        size_mismatch (str): Maps of unequal size are average pooled to the smaller one ('pool') or refused
            ('error'). Defaults to 'pool'.
        name (str): What the logs call it. Defaults to 'at'.

    Raises:
        ValueError: An option outside these.
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
            raise ValueError('attention transfer needs pairs of layers: pairs=[(student_layer, teacher_layer), ...]')
        check_map_options(p, reduction)
        check_distance_options(form, 2, size_mismatch)
        super().__init__(pairs, weight, name)
        self.form = form
        self.p = p
        self.reduction = reduction
        self.size_mismatch = size_mismatch
        # Layers whose outputs are maps, by network.
        self._learned = dict(student=set(), teacher=set())

    def resolve_student(self, student: nn.Module) -> None:
        super().resolve_student(student)
        self._learned['student'] = {path for path in self.student_layers if gives_attention(student, path)}

    def resolve_teacher(self, teacher: nn.Module) -> None:
        super().resolve_teacher(teacher)
        self._learned['teacher'] = {path for path in self.teacher_layers if gives_attention(teacher, path)}

    def _map(self, network: str, outputs: NetworkOutputs, layer: str) -> Tensor:
        if layer in outputs.maps:
            return outputs.maps[layer]
        return as_attention(outputs.features[layer], layer in self._learned[network], self.p, self.reduction)

    def digest(self, teacher: NetworkOutputs) -> NetworkOutputs:
        return NetworkOutputs(maps={layer: self._map('teacher', teacher, layer) for layer in self.teacher_layers})

    @property
    def factor(self) -> float:
        return self.weight if self.form == 'code' else self.weight / 2

    def loss(self, student: NetworkOutputs, teacher: NetworkOutputs) -> Dict[str, Tensor]:
        losses = {}
        for label, student_layer, teacher_layer in zip(self.labels, self.student_layers, self.teacher_layers):
            losses[label] = attention_distance(
                self._map('student', student, student_layer), self._map('teacher', teacher, teacher_layer),
                form=self.form, size_mismatch=self.size_mismatch)
        return losses
