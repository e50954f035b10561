"""Full-activation transfer, F-ActT in the paper's Table 1 (after FitNets, Romero et al., ICLR 2015)."""
from typing import Dict, Sequence, Tuple, Union

import torch
import torch.nn as nn
from torch import Tensor

from mmat.attention import activation_distance
from mmat.attention.distance import check_distance_options
from mmat.errors import ConfigError, LayerError
from mmat.registry import MODELS

from ..taps import Layer
from .base import BaseATHead, NetworkOutputs


@MODELS.register_module()
class FullActivationHead(BaseATHead):
    """Match the student's whole activations, normalised, to the teacher's.

    The loss of a pair is ``activation_distance(project(student), teacher)``. The sum over pairs is multiplied by
    beta / 2. ``project`` is a learned 1x1 convolution without bias where the widths differ, and the identity where they
    match. Its weights train with the student and are saved beside the student's state dict, not in it.

    Args:
        pairs (Sequence): Pairs ``(student_layer, teacher_layer)`` of stage indices or module paths.
        weight (float | dict): beta, or its schedule. Defaults to a linear decay from 10 to 0 over the training. The
            paper says only that beta decays; the schedule is the project's choice.
        size_mismatch (str): For activations of unequal size: 'pool' average pools the larger to the size of the
            smaller, 'error' raises. Defaults to 'pool'.
        name (str): Name of the loss in logs. Defaults to 'factt'.

    Raises:
        UserError: ``pairs`` is missing or an option is out of range.
        LayerError: A layer's output is not of shape (N, C, H, W).
    """

    needs_shapes = True

    def __init__(self,
                 pairs: Sequence[Tuple[Layer, Layer]],
                 weight: Union[float, dict] = dict(type='linear', initial=10., final=0., by_epoch=False),
                 size_mismatch: str = 'pool',
                 name: str = 'factt',
                 init_cfg=dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='linear')):
        if pairs is None:
            raise ConfigError('Full-activation transfer needs pairs=[(student_layer, teacher_layer), ...].')
        check_distance_options('code', 2, size_mismatch)
        super().__init__(pairs, weight, name, init_cfg)
        self.size_mismatch = size_mismatch
        self.projections = nn.ModuleList()

    @property
    def factor(self) -> float:
        return self.weight / 2

    def setup(self, student_shapes: Dict[Layer, torch.Size], teacher_shapes: Dict[Layer, torch.Size]) -> None:
        projections = []
        for student_layer, teacher_layer in zip(self.student_layers, self.teacher_layers):
            shapes = student_shapes[student_layer], teacher_shapes[teacher_layer]
            for owner, layer, shape in zip(('student', 'teacher'), (student_layer, teacher_layer), shapes):
                if len(shape) != 4:
                    raise LayerError(f'{self.name}: the output of {owner} layer {layer!r} must be of shape '
                                     f'(N, C, H, W), got {tuple(shape)}.')
            width, teacher_width = shapes[0][1], shapes[1][1]
            projections.append(nn.Identity() if width == teacher_width else
                               nn.Conv2d(width, teacher_width, 1, bias=False))
        self.projections = nn.ModuleList(projections)

    def loss(self, student: NetworkOutputs, teacher: NetworkOutputs) -> Dict[str, Tensor]:
        if not self.projections:
            raise RuntimeError(f'{self.name!r} has no projections yet. A Distiller creates them by calling setup.')
        pairs = zip(self.labels, self.student_layers, self.teacher_layers, self.projections)
        return {
            label: activation_distance(
                project(student.features[student_layer]), teacher.features[teacher_layer], self.size_mismatch)
            for label, student_layer, teacher_layer, project in pairs
        }
