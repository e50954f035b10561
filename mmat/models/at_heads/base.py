"""What every transfer head has in common."""
import re
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from ..taps import Layer, find_layer
from .schedule import WeightSchedule


def unique_names(names: Sequence[str]) -> List[str]:
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
    """What a head may read of one network. What no head asked for is None, or not in ``features``.

    Attributes:
        features (dict): Layer path -> output of that layer, for the layers that the heads read.
        logits (Tensor): Shape (N, classes), what the network's classification head gives.
        targets (Tensor): The batch's labels, shape (N, ), or their scores, (N, classes), where they are mixed.
        input_gradient (Tensor): ``J = dL/dx`` of the network's own task loss L with respect to the image as the
            student sees it, shape (N, C, H, W), see :func:`mmat.attention.input_gradient`.
        flipped_input_gradient (Tensor): ``flip(dL(flip(x))/dx)``: the same of the horizontally flipped image, flipped
            back, so that it lies on ``input_gradient``.
        maps (dict): Layer path -> what a head's :meth:`BaseATHead.digest` made of that layer's output.
    """
    features: Dict[str, Tensor] = field(default_factory=dict)
    logits: Optional[Tensor] = None
    targets: Optional[Tensor] = None
    input_gradient: Optional[Tensor] = None
    flipped_input_gradient: Optional[Tensor] = None
    maps: Dict[str, Tensor] = field(default_factory=dict)


# What a head may want of a network, beside features.
QUANTITIES = ('logits', 'targets', 'input_gradient', 'flipped_input_gradient')
GRADIENTS = ('input_gradient', 'flipped_input_gradient')


class BaseATHead(BaseModule, metaclass=ABCMeta):
    """Compares a student with a teacher, or holds the student alone to something.

    A head says what it reads and has a ``loss`` method. What it reads are the outputs of layers, named by ``pairs``,
    and the quantities in ``student_wants`` and ``teacher_wants``: any of 'logits', 'targets', 'input_gradient' and
    'flipped_input_gradient', which arrive as the attributes of :class:`NetworkOutputs` of these names. The distiller
    computes each once for all heads. A head that reads nothing of the teacher needs none.

    Calling the head weighs its losses and names them for the log. By then the distiller has turned
    ``student_layers`` and ``teacher_layers`` into module paths, which are the keys of ``features``.

    Args:
        pairs (Sequence, optional): ``(student_layer, teacher_layer)`` couples. A layer is a stage index of the
            backbone or a module path, see :func:`mmat.models.taps.find_layer`. Defaults to None: no layers.
        weight (float | dict): Factor of the loss: a number, or a schedule, see
            :class:`mmat.models.at_heads.WeightSchedule`. At 0 the loss is still computed and logged, but has no
            gradient. Defaults to 1.
        name (str): What the logs call it. Defaults to 'at'.

    Raises:
        ValueError: ``pairs`` is empty or holds something else than couples, ``weight`` is negative or a bad schedule,
            or ``name`` is empty or contains 'loss', which mmengine would add to the total.
    """

    student_wants: Tuple[str, ...] = ()
    teacher_wants: Tuple[str, ...] = ()

    def __init__(self,
                 pairs: Optional[Sequence[Tuple[Layer, Layer]]] = None,
                 weight: Union[float, dict] = 1.,
                 name: str = 'at',
                 init_cfg=None):
        super().__init__(init_cfg)
        if pairs is not None:
            if not isinstance(pairs, Sequence) or isinstance(pairs, str) or not pairs:
                raise ValueError(f'pairs must be a list of (student_layer, teacher_layer), got {pairs!r}')
            for pair in pairs:
                if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                    raise ValueError('every student layer needs one teacher layer: pairs must be a list of '
                                     f'(student_layer, teacher_layer), got {pair!r} in it')
        if not isinstance(name, str) or not name:
            raise ValueError(f'the name of a transfer head must be a word, got {name!r}')
        if 'loss' in name:
            raise ValueError(f"the name of a transfer head must not contain 'loss', got {name!r}")
        self.student_layers, self.teacher_layers = (list(side) for side in zip(*pairs)) if pairs else ([], [])
        self.schedule = WeightSchedule.build(weight)
        self.weight = self.schedule.initial
        self.name = name
        self._knows_progress = self.schedule.is_constant

    def check_wants(self) -> None:
        """Raise ValueError where a quantity is wanted that there is not."""
        for side in ('student_wants', 'teacher_wants'):
            if isinstance(getattr(self, side), str):
                raise ValueError(f'{side} of {type(self).__name__} must be a tuple of names, got '
                                 f'{getattr(self, side)!r}')
            for name in getattr(self, side):
                if name not in QUANTITIES:
                    close = get_close_matches(str(name), QUANTITIES, n=1, cutoff=0) or QUANTITIES
                    raise ValueError(f'{side} of {type(self).__name__} has {name!r}, which is none of {QUANTITIES}; '
                                     f'the closest is {close[0]!r}')

    @property
    def needs_teacher(self) -> bool:
        return bool(self.teacher_layers or self.teacher_wants)

    @property
    def factor(self) -> float:
        """What the loss is multiplied by."""
        return self.weight

    @property
    def task_weight(self) -> Optional[float]:
        """What the student's own losses are multiplied by, for a head that says so; None: as they are."""
        return None

    @property
    def learns(self) -> bool:
        """Whether a gradient is needed: not without a weight, unless there are parameters, which DDP wants used."""
        return self.factor != 0 or any(True for _ in self.parameters())

    @property
    def labels(self) -> List[str]:
        """One name for each pair: its student's layer, with the teacher's where that alone is ambiguous."""
        labels = []
        for index, layer in enumerate(self.student_layers):
            label = str(layer)
            if self.student_layers.count(layer) > 1 and index < len(self.teacher_layers):
                label = f'{layer}-{self.teacher_layers[index]}'
            # Every logged key that contains 'loss' is summed by mmengine, also a raw value's.
            labels.append(str(index) if 'loss' in label else label)
        return unique_names(labels)

    def resolve_student(self, student: nn.Module) -> None:
        """Turn the student's layers into module paths; raises as :func:`find_layer` does."""
        self.student_layers = [find_layer(student, layer, 'student') for layer in self.student_layers]

    def resolve_teacher(self, teacher: nn.Module) -> None:
        """Turn the teacher's layers into module paths; raises as :func:`find_layer` does."""
        self.teacher_layers = [find_layer(teacher, layer, 'teacher') for layer in self.teacher_layers]

    def setup(self, student_shapes: Dict[str, torch.Size], teacher_shapes: Dict[str, torch.Size]) -> None:
        """Make the parameters that depend on the networks' widths; for heads that have such.

        The distiller calls it once, when it is built, on heads that override it. Both arguments map the paths of the
        head's layers to the shapes of their outputs for one image of a usual size.
        """

    def set_progress(self, epoch: int, iteration: int, max_epochs: int, max_iters: int) -> None:
        """Move the weight to where the training is: epochs and iterations done, and its length."""
        self.weight = self.schedule.at(epoch, iteration, max_epochs, max_iters)
        self._knows_progress = True

    def forward(self, student: NetworkOutputs, teacher: Optional[NetworkOutputs] = None) -> Dict[str, Tensor]:
        """Weighted losses as ``loss_{name}.{label}``, raw ones, detached, as ``{name}.{label}``.

        Without the label where ``loss`` gives one tensor. A scheduled weight is logged as ``{name}.weight``.

        Raises:
            RuntimeError: The weight has a schedule and was never told the progress of the training.
        """
        if not self._knows_progress:
            raise RuntimeError(f'the weight of {self.name!r} has a schedule, but nothing tells it how far the training '
                               'is: add the hook mmat.DistillationHook, or call Distiller.set_progress before a step')
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learns):
            raw = self.loss(student, teacher)
        if isinstance(raw, Tensor):
            raw = {'': raw}
        log = {}
        # mmengine sums whatever has 'loss' in its name, also a raw value.
        for label, value in zip(unique_names([re.sub('_?loss_?', '', label) for label in raw]), raw.values()):
            label = f'{self.name}.{label}' if label else self.name
            log[f'loss_{label}'] = self.factor * value
            log[label] = value.detach()
        if log and not self.schedule.is_constant:
            log[f'{self.name}.weight'] = value.new_full((), self.weight)
        return log

    def digest(self, teacher: NetworkOutputs) -> NetworkOutputs:
        """What :meth:`loss` shall get of the teacher, made as soon as the teacher has run.

        A head that overrides it makes small what is large: what no head keeps does not stay in memory while the
        student runs, and students that share a teacher share the result. No gradients; nothing that the head learns
        may go into it. Defaults to the outputs as they are.
        """
        return teacher

    @abstractmethod
    def loss(self, student: NetworkOutputs, teacher: Optional[NetworkOutputs]) -> Union[Tensor, Dict[str, Tensor]]:
        """Raw losses, before the weight.

        Args:
            student (NetworkOutputs): The student's, with gradients.
            teacher (NetworkOutputs): The teacher's, without, as :meth:`digest` gives it; None where it is not read.

        Returns:
            Tensor | dict: A scalar, or label -> scalar (labels are logged without the word 'loss'), averaged over the
            batch so that the weight means the same on any number of processes.
        """
