"""Distances between attention maps (Zagoruyko & Komodakis, ICLR 2017, equation 2) and between activations."""
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmat.errors import UserError

from .precision import at_least_float32

FORMS = ('code', 'paper')
SIZE_MISMATCH = ('pool', 'error')


def check_distance_options(form: str, p: float, size_mismatch: str) -> None:
    """Check the options of :func:`attention_distance`.

    Raises:
        UserError: An option is unknown or out of range.
    """
    if form not in FORMS:
        raise UserError(f'The form of an attention distance must be one of {FORMS}, got {form!r}.')
    if not p >= 1:
        raise UserError(f'The order p of an attention distance must be a number >= 1, got {p!r}.')
    if form == 'code' and p != 2:
        raise UserError(f"The attention distance form='code' needs p=2, got {p!r}. Use form='paper' for other p >= 1.")
    if size_mismatch not in SIZE_MISMATCH:
        raise UserError(f'The option size_mismatch must be one of {SIZE_MISMATCH}, got {size_mismatch!r}.')


def normalize_map(attention: Tensor) -> Tensor:
    """Flatten each map and divide it by its L2 norm.

    Each map is first divided by its largest absolute value, because float32 cannot hold the squares of very large or
    very small values. An all-zero map stays zero and has no gradient.

    The authors' code normalises with ``F.normalize`` alone. The results agree except at the ends of float32's range:
    its norm overflows for activations near 1e10 (maps near 1e20), which turns the map into zeros, and maps of a norm
    below 1e-12, its epsilon, do not reach unit norm. Here both do.

    Args:
        attention (Tensor): Maps of shape (N, H, W).

    Returns:
        Tensor: Shape (N, H * W), each row of unit L2 norm, or zero.
    """
    flat = attention.flatten(1)
    # Detached, because the quotient does not depend on the scale.
    scale = flat.detach().abs().amax(dim=1, keepdim=True)
    # The lower bound keeps the gradient of a nearly zero map within float32.
    flat = torch.where(scale == 0, 0, flat / scale.clamp(min=1e-24))
    return F.normalize(flat, dim=1)


def match_sizes(student: Tensor, teacher: Tensor, size_mismatch: str = 'pool') -> Tuple[Tensor, Tensor]:
    """Average pool both tensors to the smaller height and the smaller width.

    Args:
        student (Tensor): Maps of shape (N, H, W) or activations of shape (N, C, H, W).
        teacher (Tensor): Maps of shape (N, H', W') or activations of shape (N, C, H', W').
        size_mismatch (str): 'pool', or 'error' to refuse unequal sizes. Defaults to 'pool'.

    Returns:
        tuple: Student and teacher, of height min(H, H') and width min(W, W').

    Raises:
        UserError: The sizes differ and ``size_mismatch='error'``.
    """
    if student.shape[-2:] != teacher.shape[-2:]:
        if size_mismatch == 'error':
            raise UserError(f'The student map {tuple(student.shape[-2:])} and the teacher map '
                            f"{tuple(teacher.shape[-2:])} differ in size. Set size_mismatch='pool' to pool them.")
        size = (min(student.shape[-2], teacher.shape[-2]), min(student.shape[-1], teacher.shape[-1]))
        student, teacher = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
    return student, teacher


def attention_distance(student_map: Tensor,
                       teacher_map: Tensor,
                       form: str = 'code',
                       p: float = 2,
                       size_mismatch: str = 'pool') -> Tensor:
    """Compute the distance between student and teacher attention maps, averaged over the batch.

    With ``q`` the flattened map of a sample, divided by its L2 norm:

    - ``form='code'``: mean over batch and positions of ``(q_s - q_t)^2``, the authors' ``at_loss``.
    - ``form='paper'``: mean over the batch of ``||q_s - q_t||_p``, the unsquared norm of equation 2.

    The caller applies the weight: beta for 'code', beta / 2 for 'paper'.

    Maps of unequal sizes are pooled; the paper resizes the maps too. RepDistiller and mdistiller pool the activations
    before they compute the maps. The two losses differ: on random input (Gaussian, 3 and 5 channels, 4x4 and 8x8) by
    39 %, after a ReLU by 8 %, and by more or less with other channel numbers.

    Args:
        student_map (Tensor): Shape (N, H, W). Gradients flow to it.
        teacher_map (Tensor): Shape (N, H', W'). Pass it detached.
        form (str): 'code' or 'paper'. Defaults to 'code'.
        p (float): Order of the norm for 'paper', at least 1; 'code' accepts 2 only. Defaults to 2.
        size_mismatch (str): If (H, W) differs from (H', W'), 'pool' average pools both **maps** to the smaller height
            and width, 'error' raises. Defaults to 'pool'.

    Returns:
        Tensor: A scalar.

    Raises:
        UserError: An option is unknown, a map is not (N, H, W), the batch sizes differ, or the map sizes differ and
            ``size_mismatch='error'``.
    """
    check_distance_options(form, p, size_mismatch)
    for name, attention in (('student', student_map), ('teacher', teacher_map)):
        if attention.dim() != 3:
            raise UserError('An attention distance needs maps of shape (N, H, W), got a '
                            f'{name} map of shape {tuple(attention.shape)}.')
    if len(student_map) != len(teacher_map):
        raise UserError(f'The batches differ: {len(student_map)} student maps but {len(teacher_map)} teacher maps.')
    student_map, teacher_map = match_sizes(student_map, teacher_map, size_mismatch)
    difference = normalize_map(student_map) - normalize_map(teacher_map)
    if form == 'code':
        return difference.square().mean()
    return torch.linalg.vector_norm(difference, ord=p, dim=1).mean()


def activation_distance(student: Tensor, teacher: Tensor, size_mismatch: str = 'pool') -> Tensor:
    """Compute the squared distance between normalised activations, averaged over the batch.

    ``mean_i || a_s/||a_s||_2 - a_t/||a_t||_2 ||_2^2``, with ``a`` the flattened activation of a sample: the hint loss
    of FitNets (Romero et al., ICLR 2015, equation 3) on normalised activations. It lies between 0 and 4 for any size.
    The caller applies the weight, beta / 2. Computed in float32 or float64, also under autocast.

    Args:
        student (Tensor): Shape (N, C, H, W). Gradients flow to it.
        teacher (Tensor): Shape (N, C, H', W'). Pass it detached.
        size_mismatch (str): If the sizes differ, 'pool' average pools both activations to the smaller height and
            width, 'error' raises. Defaults to 'pool'.

    Returns:
        Tensor: A scalar.

    Raises:
        UserError: An option is unknown, the activations are not (N, C, H, W) of equal N and C, or their sizes differ
            and ``size_mismatch='error'``.
    """
    check_distance_options('code', 2, size_mismatch)
    if student.dim() != 4 or teacher.dim() != 4 or student.shape[:2] != teacher.shape[:2]:
        raise UserError('An activation distance needs activations (N, C, H, W) of equal N and C, got '
                        f'{tuple(student.shape)} and {tuple(teacher.shape)}.')
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = (at_least_float32(value) for value in (student, teacher))
        student, teacher = match_sizes(student, teacher, size_mismatch)
        return (normalize_map(student) - normalize_map(teacher)).square().sum(dim=1).mean()
