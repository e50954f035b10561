"""Knowledge distillation (Hinton et al., 2015), in today's form and in the form of the authors' code."""
import math
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from mmat.errors import UserError

from .precision import at_least_float32

SOFT_TARGET_FORMS = ('batchmean', 'pre2018')


def check_soft_target_options(T: float, form: str) -> None:
    """Check the options of :func:`soft_target_loss`.

    Raises:
        UserError: ``T`` is not a positive number or ``form`` is unknown.
    """
    if not isinstance(T, Real) or not 0 < T < math.inf:
        raise UserError(f'The temperature T must be a number > 0, got {T!r}.')
    if form not in SOFT_TARGET_FORMS:
        raise UserError(f'The form of a soft target loss must be one of {SOFT_TARGET_FORMS}, got {form!r}.')


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, T: float = 4, form: str = 'batchmean') -> Tensor:
    """Compute the Kullback-Leibler divergence of the student's softened predictions from the teacher's.

    With ``p = softmax(teacher / T)``, ``q = softmax(student / T)`` and ``KL = sum_c p_c log(p_c / q_c)``:

    - ``form='batchmean'``: ``T^2`` times the mean of KL over the batch, today's convention. The factor ``T^2`` keeps
      the gradient on the scale of the cross entropy's.
    - ``form='pre2018'``: ``2 T^2`` times the mean of ``p_c log(p_c / q_c)`` over batch **and classes**, which is
      ``2 / C`` times 'batchmean'. The authors' code computed this until July 2018; which form the paper's KD columns
      use is not settled, see docs/design_choices.md.

    The caller applies the weight alpha. Computed in float32 or float64, also under autocast.

    Args:
        student_logits (Tensor): Shape (N, C). Gradients flow to it.
        teacher_logits (Tensor): Shape (N, C). Pass it detached.
        T (float): Temperature, above 0. Defaults to 4, the authors' value.
        form (str): 'batchmean' or 'pre2018'. Defaults to 'batchmean'.

    Returns:
        Tensor: A scalar.

    Raises:
        UserError: An option is invalid, or the logits are not two tensors of equal shape (N, C).
    """
    check_soft_target_options(T, form)
    if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
        raise UserError('Soft targets need student and teacher logits of equal shape (N, classes), got '
                        f'{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}.')
    with torch.autocast(student_logits.device.type, enabled=False):
        student_logits, teacher_logits = (
            at_least_float32(logits) for logits in (student_logits, teacher_logits))
        divergence = F.kl_div(
            F.log_softmax(student_logits / T, dim=1), F.log_softmax(teacher_logits / T, dim=1),
            reduction='batchmean' if form == 'batchmean' else 'none', log_target=True)
        return T**2 * divergence if form == 'batchmean' else 2 * T**2 * divergence.mean()
