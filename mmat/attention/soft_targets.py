"""Knowledge distillation (Hinton et al., 2015), as the attention transfer authors' code computes it, then and now."""
import math
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32

SOFT_TARGET_FORMS = ('batchmean', 'pre2018')


def check_soft_target_options(T: float, form: str) -> None:
    """Raise ValueError where an option is not one that :func:`soft_target_loss` takes."""
    if not isinstance(T, Real) or not 0 < T < math.inf:
        raise ValueError(f'the temperature T must be a number > 0, got {T!r}')
    if form not in SOFT_TARGET_FORMS:
        raise ValueError(f'form of a soft target loss must be one of {SOFT_TARGET_FORMS}, got {form!r}')


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, T: float = 4, form: str = 'batchmean') -> Tensor:
    """Kullback-Leibler divergence of the student's softened predictions from the teacher's.

    With ``p = softmax(teacher / T)``, ``q = softmax(student / T)`` and ``KL = sum_c p_c log(p_c / q_c)``:

    - ``form='batchmean'``: ``T^2`` times the mean of KL over the batch; today's convention. ``T^2`` keeps its gradient
      on the scale of the cross entropy's.
    - ``form='pre2018'``: ``2 T^2`` times the mean of ``p_c log(p_c / q_c)`` over batch **and classes**, so ``2 / C``
      times the other. The authors' code did this until July 2018, so the paper's KD columns probably did.

    alpha is the caller's. Computed in float32 at least, also under autocast.

    Args:
        student_logits (Tensor): Shape (N, C), gradients flow to it.
        teacher_logits (Tensor): Shape (N, C); pass it detached.
        T (float): Temperature, above 0. Defaults to 4, the authors'.
        form (str): 'batchmean' or 'pre2018'. Defaults to 'batchmean'.

    Returns:
        Tensor: A scalar.

    Raises:
        ValueError: An unknown option, or logits that are not two equal (N, C).
    """
    check_soft_target_options(T, form)
    if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError('soft targets need logits of one shape (N, classes) from student and teacher, got '
                         f'{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}')
    with torch.autocast(student_logits.device.type, enabled=False):
        student_logits, teacher_logits = (
            at_least_float32(logits) for logits in (student_logits, teacher_logits))
        divergence = F.kl_div(
            F.log_softmax(student_logits / T, dim=1), F.log_softmax(teacher_logits / T, dim=1),
            reduction='batchmean' if form == 'batchmean' else 'none', log_target=True)
        return T**2 * divergence if form == 'batchmean' else 2 * T**2 * divergence.mean()
