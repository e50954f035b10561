"""Knowledge distillation (Hinton et al., 2015), KD in the paper's tables."""
import math
from numbers import Real
from typing import Any, Dict, Union

import torch
from torch import Tensor

from mmat.attention import soft_target_loss
from mmat.attention.soft_targets import check_soft_target_options
from mmat.errors import ConfigError
from mmat.registry import MODELS

from .base import BaseATHead, NetworkOutputs
from .schedule import WeightSchedule


@MODELS.register_module()
class SoftTargetHead(BaseATHead):
    """Match the student's softened predictions to the teacher's: ``alpha * KD + (1 - alpha) * CE``.

    The head adds ``alpha * soft_target_loss`` and multiplies the student's own losses by ``1 - alpha``, once, whatever
    other heads are used. With several teachers, ``teacher=dict(a=0.7, b=0.3)``, the soft targets are the weighted
    average of the teachers' probabilities at temperature T.

    Args:
        T (float): Temperature, above 0. Defaults to 4, the authors' value.
        alpha (float | dict): Share of the soft targets, in [0, 1], or its schedule. Defaults to 0.9, as the authors.
        form (str): 'batchmean', today's convention, or 'pre2018', the convention of the authors' code before July 2018,
            which is weaker by the factor ``2 / classes``; see :func:`mmat.attention.soft_target_loss`. Defaults to
            'batchmean'.
        name (str): Name of the loss in logs. Defaults to 'kd'.

    Raises:
        UserError: An option is out of range.
    """

    student_wants = teacher_wants = ('logits', )
    averages_teachers = True

    def __init__(self, T: float = 4, alpha: Union[float, dict] = 0.9, form: str = 'batchmean', name: str = 'kd'):
        check_soft_target_options(T, form)
        is_number = isinstance(alpha, Real) and not isinstance(alpha, bool)
        if not isinstance(alpha, (dict, WeightSchedule)) and not (is_number and 0 <= alpha <= 1):
            raise ConfigError(f'alpha must be in [0, 1], got {alpha!r}.')
        super().__init__(weight=alpha, name=name)
        if self.schedule.greatest > 1:
            raise ConfigError(f'alpha must stay in [0, 1], got {alpha!r}.')
        self.T = T
        self.form = form

    @property
    def task_weight(self) -> float:
        return 1 - self.weight

    def average_teachers(self, outputs: Dict[str, Any], weights: Dict[str, float]) -> NetworkOutputs:
        """Return logits whose softmax at temperature T is the weighted average of the teachers' probabilities."""
        scores = [math.log(weights[name]) + (output.logits.float() / self.T).log_softmax(1)
                  for name, output in outputs.items()]
        return NetworkOutputs(logits=self.T * torch.stack(scores).logsumexp(0))

    def loss(self, student: NetworkOutputs, teacher: Any) -> Tensor:
        assert student.logits is not None
        return soft_target_loss(student.logits, teacher.logits, self.T, self.form)
