"""Gradient-based attention (Zagoruyko & Komodakis, ICLR 2017, section 3.2): three rows of the paper's Table 3.

Each head differentiates the student's loss with respect to the input, and that gradient with respect to the weights
(double backpropagation). The distiller computes each gradient once for all heads. It computes them in float32, also
under autocast, because bfloat16 gradients are several percent off.
"""
from typing import Any, Union

from torch import Tensor

from mmat.attention import gradient_norm
from mmat.attention.gradient import check_gradient_options
from mmat.registry import MODELS

from .base import BaseATHead, NetworkOutputs


class _GradientHead(BaseATHead):
    """Base class: the norm of :meth:`difference`, multiplied by beta / 2."""

    def __init__(self, weight: Union[float, dict], form: str, name: str):
        check_gradient_options(form)
        super().__init__(weight=weight, name=name)
        self.form = form

    @property
    def factor(self) -> float:
        return self.weight / 2

    def loss(self, student: NetworkOutputs, teacher: Any) -> Tensor:
        return gradient_norm(self.difference(student, teacher), self.form)

    def difference(self, student: NetworkOutputs, teacher: Any) -> Tensor:
        raise NotImplementedError


@MODELS.register_module()
class GradientATHead(_GradientHead):
    """Gradient-based attention transfer: match the student's input gradient to the teacher's.

    The loss is ``beta/2 * ||J_S - J_T||_2`` with ``J = dL/dx`` of each network's own loss, averaged over the batch.

    Args:
        weight (float | dict): beta, or its schedule.
        form (str): 'paper', the norm, or 'squared', the squared norm. Defaults to 'paper'.
        name (str): Name of the loss in logs. Defaults to 'gradat'.

    Raises:
        UserError: An option is out of range, or, when the distiller is built, the student's gradient cannot be
            differentiated.
    """

    student_wants = teacher_wants = ('input_gradient', )

    def __init__(self, weight: Union[float, dict], form: str = 'paper', name: str = 'gradat'):
        super().__init__(weight, form, name)

    def difference(self, student: NetworkOutputs, teacher: Any) -> Tensor:
        return student.input_gradient - teacher.input_gradient


@MODELS.register_module()
class GradientNormHead(_GradientHead):
    """min-l2: penalise the student's input gradient (Drucker & LeCun, 1992). Needs no teacher.

    The loss is ``beta/2 * ||J_S||_2``, averaged over the batch. ``form='squared'`` is Drucker & LeCun's energy. The
    arguments are those of :class:`GradientATHead`; ``name`` defaults to 'minl2'.
    """

    student_wants = ('input_gradient', )

    def __init__(self, weight: Union[float, dict], form: str = 'paper', name: str = 'minl2'):
        super().__init__(weight, form, name)

    def difference(self, student: NetworkOutputs, teacher: Any) -> Tensor:
        assert student.input_gradient is not None
        return student.input_gradient


@MODELS.register_module()
class FlipSymmetryHead(_GradientHead):
    """Symmetry norm: match the gradient of the flipped image to the flipped gradient. Needs no teacher.

    The loss is ``beta/2 * ||dL(x)/dx - flip(dL(flip(x))/dx)||_2`` with a horizontal flip, averaged over the batch. The
    flipped image takes a separate forward pass, which does not update BN's running statistics. The arguments are those
    of :class:`GradientATHead`; ``name`` defaults to 'flipsym'.
    """

    student_wants = ('input_gradient', 'flipped_input_gradient')

    def __init__(self, weight: Union[float, dict], form: str = 'paper', name: str = 'flipsym'):
        super().__init__(weight, form, name)

    def difference(self, student: NetworkOutputs, teacher: Any) -> Tensor:
        assert student.input_gradient is not None and student.flipped_input_gradient is not None
        return student.input_gradient - student.flipped_input_gradient
