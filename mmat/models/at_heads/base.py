"""Base class of transfer heads."""
import re
import warnings
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from mmat.errors import ConfigError, did_you_mean

from ..taps import Layer, find_layer
from .schedule import WeightSchedule


def unique_names(names: Sequence[str]) -> List[str]:
    """Number repeated names, in order: ``at, at`` becomes ``at, at_2``."""
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
    """Outputs of one network that a head may read. A quantity that no head asked for is None.

    Attributes:
        features (dict): Layer -> its output. A layer is a key both as written in ``pairs`` and as its module path.
        logits (Tensor): Output of the network's classification head, shape (N, classes).
        targets (Tensor): Labels of the batch, shape (N, ), or scores, shape (N, classes), where labels are mixed.
        input_gradient (Tensor): ``J = dL/dx`` of the network's own task loss L with respect to the image under the
            student's normalisation, shape (N, C, H, W), see :func:`mmat.attention.input_gradient`.
        flipped_input_gradient (Tensor): ``flip(dL(flip(x))/dx)``, the gradient of the horizontally flipped image,
            flipped back to align with ``input_gradient``.
    """
    features: Dict[Layer, Tensor] = field(default_factory=dict)
    logits: Optional[Tensor] = None
    targets: Optional[Tensor] = None
    input_gradient: Optional[Tensor] = None
    flipped_input_gradient: Optional[Tensor] = None


# Quantities that a head may read of a network, beside features.
QUANTITIES = ('logits', 'targets', 'input_gradient', 'flipped_input_gradient')
GRADIENTS = ('input_gradient', 'flipped_input_gradient')


class BaseATHead(BaseModule, metaclass=ABCMeta):
    """Base class of losses that compare a student with a teacher, or constrain the student alone.

    A subclass declares its inputs and implements :meth:`loss`. Its inputs are the outputs of layers, given by
    ``pairs``, and the quantities in ``student_wants`` and ``teacher_wants``: any of 'logits', 'targets',
    'input_gradient' and 'flipped_input_gradient'. They arrive in a :class:`NetworkOutputs`. The distiller computes each
    once for all heads. A head that reads nothing of the teacher needs no teacher.

    Calling the head multiplies its losses by its weight and names them for the log.

    Class attributes:
        student_wants, teacher_wants (tuple[str]): Quantities to read of each network. Default to none.
        needs_shapes (bool): Whether the head creates parameters in :meth:`setup`. Defaults to False.
        averages_teachers (bool): Whether the head implements :meth:`average_teachers`. Defaults to False.

    Attributes:
        teacher (str | dict, optional): Name of the teacher to read, or name -> weight for heads that average several
            teachers; the ``teacher`` option of a head's config. None: the only teacher.
        student_layers, teacher_layers (list): Layers as written in ``pairs``; keys of ``NetworkOutputs.features``.
        student_paths, teacher_paths (list[str]): Their module paths, once the distiller has resolved them.

    Args:
        pairs (Sequence, optional): Pairs ``(student_layer, teacher_layer)``. A layer is a stage index of the backbone
            or a module path, see :func:`mmat.models.taps.find_layer`. Defaults to None: no layers.
        weight (float | dict): Factor of the loss: a number or a schedule, see
            :class:`mmat.models.at_heads.WeightSchedule`. With 0 the loss is computed and logged, but has no gradient.
            Defaults to 1.
        name (str): Name of the loss in logs. Defaults to 'at'.

    Raises:
        ConfigError: ``pairs`` is empty or contains anything but pairs, ``weight`` is negative or an invalid schedule,
            or ``name`` is empty or contains 'loss', which mmengine would add to the total.
    """

    student_wants: Tuple[str, ...] = ()
    teacher_wants: Tuple[str, ...] = ()
    needs_shapes: bool = False
    averages_teachers: bool = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Heads written for mmat 0.1. Stack level 3 is the class statement, below ABCMeta.
        if 'reduce_teacher' in vars(cls):
            cls.digest = cls.reduce_teacher
        elif 'digest' in vars(cls):
            warnings.warn(f'{cls.__name__}.digest is deprecated; rename it reduce_teacher.', DeprecationWarning, 3)
            cls.reduce_teacher = cls.digest
        if 'setup' in vars(cls) and not cls.needs_shapes:
            warnings.warn(f'{cls.__name__} overrides setup; declare needs_shapes = True.', DeprecationWarning, 3)
            cls.needs_shapes = True

    def __init__(self,
                 pairs: Optional[Sequence[Tuple[Layer, Layer]]] = None,
                 weight: Union[float, dict] = 1.,
                 name: str = 'at',
                 init_cfg=None):
        super().__init__(init_cfg)
        if pairs is not None:
            if not isinstance(pairs, Sequence) or isinstance(pairs, str) or not pairs:
                raise ConfigError(f'pairs must be a list of (student_layer, teacher_layer), got {pairs!r}.')
            for pair in pairs:
                if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                    raise ConfigError(f'pairs must be a list of (student_layer, teacher_layer), got {pair!r} in it.')
        if not isinstance(name, str) or not name:
            raise ConfigError(f'The name of a transfer head must be a non-empty string, got {name!r}.')
        if 'loss' in name:
            raise ConfigError(f"The name of a transfer head must not contain 'loss', got {name!r}.")
        self.student_layers, self.teacher_layers = (list(side) for side in zip(*pairs)) if pairs else ([], [])
        self.student_paths: List[str] = []
        self.teacher_paths: List[str] = []
        self.teacher: Union[str, Dict[str, float], None] = None
        self.schedule = WeightSchedule.build(weight)
        self.weight = self.schedule.initial
        self.name = name
        self._has_progress = self.schedule.is_constant

    def check_wants(self) -> None:
        """Check ``student_wants`` and ``teacher_wants``.

        Raises:
            ConfigError: One is no tuple, or contains an unknown quantity.
        """
        for side in ('student_wants', 'teacher_wants'):
            wants = getattr(self, side)
            if isinstance(wants, str):
                raise ConfigError(f'{side} of {type(self).__name__} must be a tuple of names, got {wants!r}.')
            for name in wants:
                if name not in QUANTITIES:
                    raise ConfigError(f'Unknown quantity {name!r} in {side} of {type(self).__name__}.' +
                                      did_you_mean(name, QUANTITIES, n=1, cutoff=0))

    @property
    def needs_teacher(self) -> bool:
        """Whether the head reads the teacher."""
        return bool(self.teacher_layers or self.teacher_wants)

    @property
    def factor(self) -> float:
        """Factor that multiplies the raw loss."""
        return self.weight

    @property
    def task_weight(self) -> Optional[float]:
        """Factor of the student's own losses, for heads that set one; None leaves them unchanged."""
        return None

    @property
    def learns(self) -> bool:
        """Whether the loss needs a gradient: the factor is not 0, or the head has parameters, which DDP needs used."""
        return self.factor != 0 or any(True for _ in self.parameters())

    @property
    def labels(self) -> List[str]:
        """One name per pair: the student's layer, followed by the teacher's where the student's is ambiguous."""
        students = self.student_paths or self.student_layers
        teachers = self.teacher_paths or self.teacher_layers
        labels = []
        for index, layer in enumerate(students):
            label = str(layer)
            if students.count(layer) > 1 and index < len(teachers):
                label = f'{layer}-{teachers[index]}'
            # mmengine sums every logged key that contains 'loss', raw values included.
            labels.append(str(index) if 'loss' in label else label)
        return unique_names(labels)

    def resolve_student(self, student: nn.Module) -> None:
        """Find the module paths of the student's layers; raises as :func:`find_layer` does."""
        self.student_paths = [find_layer(student, layer, 'student') for layer in self.student_layers]

    def resolve_teacher(self, teacher: nn.Module) -> None:
        """Find the module paths of the teacher's layers; raises as :func:`find_layer` does."""
        self.teacher_paths = [find_layer(teacher, layer, 'teacher') for layer in self.teacher_layers]

    def setup(self, student_shapes: Dict[Layer, torch.Size], teacher_shapes: Dict[Layer, torch.Size]) -> None:
        """Create parameters whose shapes depend on the networks.

        The distiller calls it once, when it is built, on heads that declare ``needs_shapes = True``.

        Args:
            student_shapes (dict): Layer -> shape of its output for one image, with the keys of ``features``.
            teacher_shapes (dict): Likewise for the teacher.
        """

    def set_progress(self, epoch: int, iteration: int, max_epochs: int, max_iters: int) -> None:
        """Set the weight for the number of epochs and iterations done of a training."""
        self.weight = self.schedule.at(epoch, iteration, max_epochs, max_iters)
        self._has_progress = True

    def forward(self, student: NetworkOutputs, teacher: Any = None, reduced: bool = False) -> Dict[str, Tensor]:
        """Compute the losses and name them for the log.

        Args:
            student (NetworkOutputs): Outputs of the student.
            teacher (Any, optional): The teacher's :class:`NetworkOutputs`, or the return value of
                :meth:`reduce_teacher`.
            reduced (bool): Whether ``teacher`` is the return value of :meth:`reduce_teacher` also if it is a
                :class:`NetworkOutputs`. Defaults to False.

        Returns:
            dict: Weighted losses as ``loss_{name}.{label}`` and raw, detached ones as ``{name}.{label}``; without the
            label if :meth:`loss` returns a tensor. A scheduled weight is added as ``{name}.weight``.

        Raises:
            RuntimeError: The weight has a schedule and :meth:`set_progress` was never called.
        """
        if not self._has_progress:
            raise RuntimeError(f'The weight of {self.name!r} has a schedule, but the progress of training is unknown. '
                               'Add the hook mmat.DistillationHook, or call Distiller.set_progress before each step.')
        if isinstance(teacher, NetworkOutputs) and not reduced:
            teacher = self.reduce_teacher(teacher)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learns):
            raw = self.loss(student, teacher)
        if isinstance(raw, Tensor):
            raw = {'': raw}
        log = {}
        # mmengine sums every key that contains 'loss', raw values included.
        for label, value in zip(unique_names([re.sub('_?loss_?', '', label) for label in raw]), raw.values()):
            label = f'{self.name}.{label}' if label else self.name
            log[f'loss_{label}'] = self.factor * value
            log[label] = value.detach()
        if log and not self.schedule.is_constant:
            log[f'{self.name}.weight'] = value.new_full((), self.weight)
        return log

    def reduce_teacher(self, teacher: NetworkOutputs) -> Any:
        """Reduce the teacher's outputs to what :meth:`loss` needs, as soon as the teacher has run.

        The full activations are then freed before the student runs, and students that share a teacher share the
        result. No gradients; the result must not depend on the head's parameters. Defaults to the outputs unchanged.

        Args:
            teacher (NetworkOutputs): Outputs of the teacher.

        Returns:
            Any: Passed to :meth:`loss` as ``teacher``.
        """
        return teacher

    digest = reduce_teacher  # name in mmat 0.1

    def average_teachers(self, outputs: Dict[str, Any], weights: Dict[str, float]) -> Any:
        """Combine the reduced outputs of several teachers, for heads that declare ``averages_teachers = True``.

        Args:
            outputs (dict): Name of the teacher -> return value of :meth:`reduce_teacher`.
            weights (dict): Name of the teacher -> weight; the weights sum to 1.

        Returns:
            Any: Passed to :meth:`loss` as ``teacher``.
        """
        raise NotImplementedError

    @abstractmethod
    def loss(self, student: NetworkOutputs, teacher: Any) -> Union[Tensor, Dict[str, Tensor]]:
        """Compute the raw losses, before the weight.

        Args:
            student (NetworkOutputs): Outputs of the student, with gradients.
            teacher (Any): Return value of :meth:`reduce_teacher`, without gradients; None if the head reads no teacher.

        Returns:
            Tensor | dict: A scalar, or label -> scalar. Average over the batch, so that the weight has the same meaning
            on any number of processes.
        """
