"""Decoupled knowledge distillation (Zhao et al., CVPR 2022)."""
from typing import Dict

import torch
import torch.nn.functional as F
from torch import Tensor

from mmat.errors import ConfigError
from mmat.models import BaseATHead, NetworkOutputs

from .registry import MODELS


@MODELS.register_module()
class DecoupledKDHead(BaseATHead):
    """Compute ``alpha * TCKD + beta * NCKD`` (equation 7), each times ``T^2``.

    Args:
        T (float): Temperature. Defaults to 4.
        alpha (float): Weight of the target class (TCKD). Defaults to 1.
        beta (float): Weight of the other classes (NCKD). Defaults to 8.
        weight (float | dict): Weight of the sum, or its schedule. Defaults to 1.
        name (str): Name in the log. Defaults to 'dkd'.

    Raises:
        ConfigError: ``T`` is not above 0.
    """

    # The quantities that `loss` reads. A head that compares layers sets `pairs` and reads `student.features`.
    student_wants = ('logits', 'targets')
    teacher_wants = ('logits', )

    def __init__(self, T: float = 4, alpha: float = 1, beta: float = 8, weight=1., name: str = 'dkd'):
        if not T > 0:
            raise ConfigError(f'The temperature T must be above 0, got {T!r}.')
        super().__init__(weight=weight, name=name)
        self.T = T
        self.alpha = alpha
        self.beta = beta

    def loss(self, student: NetworkOutputs, teacher: NetworkOutputs) -> Dict[str, Tensor]:
        is_target = F.one_hot(student.targets, student.logits.shape[1]).bool()
        student_logits, teacher_logits = student.logits.float() / self.T, teacher.logits.float() / self.T
        target, others = (
            self.T**2 * F.kl_div(log_p(student_logits, is_target), log_p(teacher_logits, is_target),
                                 reduction='batchmean', log_target=True) for log_p in (log_binary, log_others))
        return dict(target=self.alpha * target, others=self.beta * others)


def log_binary(logits: Tensor, is_target: Tensor) -> Tensor:
    """Return log-probabilities of the target class and of all other classes together, shape (N, 2)."""
    log_p = F.log_softmax(logits, dim=1)
    others = log_p[~is_target].view(len(logits), -1).logsumexp(dim=1)
    return torch.stack([log_p[is_target], others], dim=1)


def log_others(logits: Tensor, is_target: Tensor) -> Tensor:
    """Return log-probabilities over the other classes, shape (N, C - 1)."""
    return F.log_softmax(logits[~is_target].view(len(logits), -1), dim=1)
