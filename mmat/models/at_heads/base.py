"""What every attention transfer head has in common."""
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from ..taps import Layer, find_layer


def distinct(names: Sequence[str]) -> List[str]:
    """The names in order, each that stood before numbered until it is free: ``at, at`` becomes ``at, at_2``."""
    result = []
    for name in names:
        candidate, number = name, 1
        while candidate in result or (number > 1 and candidate in names):
            number += 1
            candidate = f'{name}_{number}'
        result.append(candidate)
    return result


@dataclass
class NetworkOutputs:
    """What a head may read of one network after its forward pass.

    Attributes:
        features (dict): Layer path -> output of that layer, for the paths that the heads asked for.
    """
    features: Dict[str, Tensor]


class BaseATHead(BaseModule, metaclass=ABCMeta):
    """Compares layers of a student with layers of a teacher.

    A head says which layers it reads (``pairs``) and has a ``loss`` method. The distiller resolves the layers, so that
    ``student_layers`` and ``teacher_layers`` are module paths by the time ``loss`` is called. Calling the head weighs
    its losses and names them for the log.

    Args:
        pairs (Sequence): ``(student_layer, teacher_layer)`` couples. A layer is a stage index of the backbone or a
            module path, see :func:`mmat.models.taps.find_layer`.
        weight (float): Factor of the loss. At 0 the loss is still computed and logged, but has no gradient.
        name (str): What the logs call it. Defaults to 'at'.

    Raises:
        ValueError: ``pairs`` is empty or holds something else than couples, ``weight`` is negative, or ``name``
            contains 'loss', which mmengine would add to the total.
    """

    def __init__(self, pairs: Sequence[Tuple[Layer, Layer]], weight: float, name: str = 'at', init_cfg=None):
        super().__init__(init_cfg)
        if not isinstance(pairs, Sequence) or isinstance(pairs, str) or not pairs:
            raise ValueError(f'pairs must be a list of (student_layer, teacher_layer), got {pairs!r}')
        for pair in pairs:
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise ValueError('every student layer needs one teacher layer: pairs must be a list of '
                                 f'(student_layer, teacher_layer), got {pair!r} in it')
        if not weight >= 0:
            raise ValueError(f'the weight of a transfer head must be at least 0, got {weight!r}')
        if 'loss' in name:
            raise ValueError(f"the name of a transfer head must not contain 'loss', got {name!r}")
        self.student_layers, self.teacher_layers = (list(side) for side in zip(*pairs))
        self.weight = weight
        self.name = name

    @property
    def factor(self) -> float:
        """What the loss is multiplied by."""
        return self.weight

    @property
    def labels(self) -> List[str]:
        """One name for each pair: its student's layer, with the teacher's where that alone is ambiguous."""
        labels = []
        for index, layer in enumerate(self.student_layers):
            label = str(layer) if self.student_layers.count(layer) == 1 else f'{layer}-{self.teacher_layers[index]}'
            # Every logged key that contains 'loss' is summed by mmengine, also a raw value's.
            labels.append(str(index) if 'loss' in label else label)
        return distinct(labels)

    def resolve_student(self, student: nn.Module) -> None:
        """Turn the student's layers into module paths; raises as :func:`find_layer` does."""
        self.student_layers = [find_layer(student, layer, 'student') for layer in self.student_layers]

    def resolve_teacher(self, teacher: nn.Module) -> None:
        """Turn the teacher's layers into module paths; raises as :func:`find_layer` does."""
        self.teacher_layers = [find_layer(teacher, layer, 'teacher') for layer in self.teacher_layers]

    def forward(self, student: NetworkOutputs, teacher: NetworkOutputs) -> Dict[str, Tensor]:
        """Weighted losses as ``loss_{name}.{label}``, raw ones, detached, as ``{name}.{label}``."""
        # Without a weight the student has nothing to learn: the raw value is for the log, and costs no backward pass,
        # unless the head has parameters, which DDP wants to see used.
        learns = self.factor != 0 or any(True for _ in self.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            raw = self.loss(student, teacher)
        log = {}
        for label, value in raw.items():
            log[f'loss_{self.name}.{label}'] = self.factor * value
            log[f'{self.name}.{label}'] = value.detach()
        return log

    @abstractmethod
    def loss(self, student: NetworkOutputs, teacher: NetworkOutputs) -> Dict[str, Tensor]:
        """Raw losses, before the weight.

        Args:
            student (NetworkOutputs): The student's, with gradients.
            teacher (NetworkOutputs): The teacher's, without.

        Returns:
            dict: Label -> scalar, averaged over the batch so that the weight means the same on any number of
            processes.
        """
