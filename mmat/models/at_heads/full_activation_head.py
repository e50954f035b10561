"""Full-activation transfer, F-ActT in the paper's Table 1 (after FitNets, Romero et al., ICLR 2015)."""
from typing import Dict, Sequence, Tuple, Union

import torch
import torch.nn as nn
from torch import Tensor

from mmat.attention import activation_distance
from mmat.attention.distance import check_distance_options
from mmat.registry import MODELS

from ..taps import Layer
from .base import BaseATHead, NetworkOutputs


@MODELS.register_module()
class FullActivationHead(BaseATHead):
    """Pulls the student's whole activations, normalised, towards the teacher's.

    The loss of a pair is ``activation_distance(project(student), teacher)``; their sum is multiplied by beta / 2.
    ``project`` is a learned 1x1 convolution without bias where the widths differ, and nothing where they match. It
    trains beside the student and is kept beside its checkpoint, not in it.

    Args:
        pairs (Sequence): ``(student_layer, teacher_layer)`` couples: stage indices or module paths.
        weight (float | dict): beta, or its schedule. Defaults to a linear decay from 10 to 0 over the training (the
            paper only says that it decays: project's choice).
        size_mismatch (str): Activations of unequal size are average pooled to the smaller one ('pool') or refused
            ('error'). Defaults to 'pool'.
        name (str): What the logs call it. Defaults to 'factt'.

    Raises:
        ValueError: An option outside these, or layers whose outputs are not (N, C, H, W).
    """

    def __init__(self,
                 pairs: Sequence[Tuple[Layer, Layer]],
                 weight: Union[float, dict] = dict(type='linear', initial=10., final=0., by_epoch=False),
                 size_mismatch: str = 'pool',
                 name: str = 'factt',
                 init_cfg=dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='linear')):
        if pairs is None:
            raise ValueError('activation transfer needs pairs of layers: pairs=[(student_layer, teacher_layer), ...]')
        check_distance_options('code', 2, size_mismatch)
        super().__init__(pairs, weight, name, init_cfg)
        self.size_mismatch = size_mismatch
        self.projections = nn.ModuleList()

    @property
    def factor(self) -> float:
        return self.weight / 2

    def setup(self, student_shapes: Dict[str, torch.Size], teacher_shapes: Dict[str, torch.Size]) -> None:
        projections = []
        for student_layer, teacher_layer in zip(self.student_layers, self.teacher_layers):
            shapes = student_shapes[student_layer], teacher_shapes[teacher_layer]
            for owner, layer, shape in zip(('student', 'teacher'), (student_layer, teacher_layer), shapes):
                if len(shape) != 4:
                    raise ValueError(f'{self.name}: {owner} layer {layer!r} gives {tuple(shape)}, and a whole '
                                     'activation is (N, C, H, W)')
            width, teacher_width = shapes[0][1], shapes[1][1]
            projections.append(nn.Identity() if width == teacher_width else
                               nn.Conv2d(width, teacher_width, 1, bias=False))
        self.projections = nn.ModuleList(projections)

    def loss(self, student: NetworkOutputs, teacher: NetworkOutputs) -> Dict[str, Tensor]:
        if not self.projections:
            raise RuntimeError(f'{self.name!r} has not seen the widths of the networks: a Distiller calls setup')
        pairs = zip(self.labels, self.student_layers, self.teacher_layers, self.projections)
        return {
            label: activation_distance(
                project(student.features[student_layer]), teacher.features[teacher_layer], self.size_mismatch)
            for label, student_layer, teacher_layer, project in pairs
        }
