"""Knowledge distillation (Hinton et al., 2015), KD in the paper's tables."""
from numbers import Real
from typing import Union

from torch import Tensor

from mmat.attention import soft_target_loss
from mmat.attention.soft_targets import check_soft_target_options
from mmat.registry import MODELS

from .base import BaseATHead, NetworkOutputs
from .schedule import WeightSchedule


@MODELS.register_module()
class SoftTargetHead(BaseATHead):
    """Pulls the student's softened predictions towards the teacher's: ``alpha * KD + (1 - alpha) * CE``.

    The head adds ``alpha * soft_target_loss`` and leaves the student's own losses a weight of ``1 - alpha``, once,
    whatever other heads run beside it.

    Args:
        T (float): Temperature, above 0. Defaults to 4, the authors'.
        alpha (float | dict): Share of the soft targets, in [0, 1], or its schedule. Defaults to 0.9, the authors'.
        form (str): 'batchmean', today's convention, or 'pre2018', that of the authors' code when the paper was
            written, ``2 / classes`` as strong; see :func:`mmat.attention.soft_target_loss`. Defaults to 'batchmean'.
        name (str): What the logs call it. Defaults to 'kd'.

    Raises:
        ValueError: An option outside these.
    """

    student_wants = teacher_wants = ('logits', )

    def __init__(self, T: float = 4, alpha: Union[float, dict] = 0.9, form: str = 'batchmean', name: str = 'kd'):
        check_soft_target_options(T, form)
        is_number = isinstance(alpha, Real) and not isinstance(alpha, bool)
        if not isinstance(alpha, (dict, WeightSchedule)) and not (is_number and 0 <= alpha <= 1):
            raise ValueError(f'alpha of soft targets must be in [0, 1], got {alpha!r}')
        super().__init__(weight=alpha, name=name)
        if self.schedule.greatest > 1:
            raise ValueError(f'alpha of soft targets must stay in [0, 1], got {alpha!r}')
        self.T = T
        self.form = form

    @property
    def task_weight(self) -> float:
        return 1 - self.weight

    def loss(self, student: NetworkOutputs, teacher: NetworkOutputs) -> Tensor:
        return soft_target_loss(student.logits, teacher.logits, self.T, self.form)
