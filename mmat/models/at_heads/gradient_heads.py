"""Gradient-based attention (Zagoruyko & Komodakis, ICLR 2017, section 3.2), the rows of the paper's Table 3.

All three differentiate the student's loss with respect to its input, and then that gradient with respect to the
weights (double backpropagation). The distiller computes each gradient once for all heads, in float32 also under
autocast: in bfloat16 it would be several percent off.
"""
from typing import Optional, Union

from torch import Tensor

from mmat.attention import gradient_norm
from mmat.attention.gradient import check_gradient_options
from mmat.registry import MODELS

from .base import BaseATHead, NetworkOutputs


class _GradientHead(BaseATHead):
    """The norm of what :meth:`difference` gives, multiplied by beta / 2."""

    def __init__(self, weight: Union[float, dict], form: str, name: str):
        check_gradient_options(form)
        super().__init__(weight=weight, name=name)
        self.form = form

    @property
    def factor(self) -> float:
        return self.weight / 2

    def loss(self, student: NetworkOutputs, teacher: Optional[NetworkOutputs]) -> Tensor:
        return gradient_norm(self.difference(student, teacher), self.form)

    def difference(self, student: NetworkOutputs, teacher: Optional[NetworkOutputs]) -> Tensor:
        raise NotImplementedError


@MODELS.register_module()
class GradientATHead(_GradientHead):
    """Gradient-based attention transfer: pulls the student's input gradient towards the teacher's.

    ``beta/2 * ||J_S - J_T||_2`` with ``J = dL/dx`` of each network's own loss, averaged over the batch.

    Args:
        weight (float | dict): beta, or its schedule.
        form (str): 'paper', the norm as printed, or 'squared'. Defaults to 'paper'.
        name (str): What the logs call it. Defaults to 'gradat'.

    Raises:
        ValueError: An option outside these. When the distiller is built: a student whose gradient cannot be
            differentiated.
    """

    student_wants = teacher_wants = ('input_gradient', )

    def __init__(self, weight: Union[float, dict], form: str = 'paper', name: str = 'gradat'):
        super().__init__(weight, form, name)

    def difference(self, student: NetworkOutputs, teacher: NetworkOutputs) -> Tensor:
        return student.input_gradient - teacher.input_gradient


@MODELS.register_module()
class GradientNormHead(_GradientHead):
    """min-l2: keeps the student's input gradient small (Drucker & LeCun, 1992). Needs no teacher.

    ``beta/2 * ||J_S||_2``, averaged over the batch. Arguments as :class:`GradientATHead`'s; ``form='squared'`` is
    Drucker & LeCun's energy. ``name`` defaults to 'minl2'.
    """

    student_wants = ('input_gradient', )

    def __init__(self, weight: Union[float, dict], form: str = 'paper', name: str = 'minl2'):
        super().__init__(weight, form, name)

    def difference(self, student: NetworkOutputs, teacher: Optional[NetworkOutputs]) -> Tensor:
        return student.input_gradient


@MODELS.register_module()
class FlipSymmetryHead(_GradientHead):
    """Symmetry norm: the gradient of a mirrored image should be the mirrored gradient. Needs no teacher.

    ``beta/2 * ||dL(x)/dx - flip(dL(flip(x))/dx)||_2`` with a horizontal flip, averaged over the batch. The mirrored
    image costs a forward pass of its own, which does not count in BN's running statistics. Arguments as
    :class:`GradientATHead`'s; ``name`` defaults to 'flipsym'.
    """

    student_wants = ('input_gradient', 'flipped_input_gradient')

    def __init__(self, weight: Union[float, dict], form: str = 'paper', name: str = 'flipsym'):
        super().__init__(weight, form, name)

    def difference(self, student: NetworkOutputs, teacher: Optional[NetworkOutputs]) -> Tensor:
        return student.input_gradient - student.flipped_input_gradient
