"""Distance between attention maps, as the paper writes it and as its authors' code computes it; and of activations."""
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32

FORMS = ('code', 'paper')
SIZE_MISMATCH = ('pool', 'error')


def check_distance_options(form: str, p: float, size_mismatch: str) -> None:
    """Raise ValueError where an option is not one that :func:`attention_distance` takes."""
    if form not in FORMS:
        raise ValueError(f'form of an attention distance must be one of {FORMS}, got {form!r}')
    if not p >= 1:
        raise ValueError(f'p of an attention distance must be a number >= 1, got {p!r}')
    if form == 'code' and p != 2:
        raise ValueError(f"form='code' is a mean of squares, so its p is 2, got {p!r}; form='paper' takes any p >= 1")
    if size_mismatch not in SIZE_MISMATCH:
        raise ValueError(f'size_mismatch must be one of {SIZE_MISMATCH}, got {size_mismatch!r}')


def normalize_map(attention: Tensor) -> Tensor:
    """Flatten maps and divide each sample by its L2 norm.

    Each sample is scaled by its largest value first, which changes nothing but the range: float32 holds neither the
    square of a map of large activations nor that of tiny ones. A map that is zero everywhere stays zero, and
    has no gradient. (The authors' code does not scale; the two differ only for maps of a norm below its epsilon of
    1e-12.)

    Args:
        attention (Tensor): Maps of shape (N, H, W).

    Returns:
        Tensor: Shape (N, H * W), each row of unit L2 norm, or zero.
    """
    flat = attention.flatten(1)
    # Detached: the quotient does not depend on the scale, so neither does its gradient.
    scale = flat.detach().abs().amax(dim=1, keepdim=True)
    # Bounded below, so that float32 holds the gradient of a map that is all but zero; one that is zero has none.
    flat = torch.where(scale == 0, 0, flat / scale.clamp(min=1e-24))
    return F.normalize(flat, dim=1)


def match_sizes(student: Tensor, teacher: Tensor, size_mismatch: str = 'pool') -> Tuple[Tensor, Tensor]:
    """Bring both to the smaller height and width by average pooling, or refuse; shapes (N, H, W) or (N, C, H, W)."""
    if student.shape[-2:] != teacher.shape[-2:]:
        if size_mismatch == 'error':
            raise ValueError(f'student map {tuple(student.shape[-2:])} and teacher map '
                             f"{tuple(teacher.shape[-2:])} differ in size, and size_mismatch='error'")
        size = [min(pair) for pair in zip(student.shape[-2:], teacher.shape[-2:])]
        student, teacher = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
    return student, teacher


def attention_distance(student_map: Tensor,
                       teacher_map: Tensor,
                       form: str = 'code',
                       p: float = 2,
                       size_mismatch: str = 'pool') -> Tensor:
    """Distance between the attention of a student and of a teacher, averaged over the batch.

    With ``q`` the flattened map of one sample divided by its L2 norm:

    - ``form='code'``: mean over batch and positions of ``(q_s - q_t)^2``, as in the authors' ``at_loss``.
    - ``form='paper'``: mean over the batch of ``||q_s - q_t||_p``, the norm of equation 2, unsquared.

    The weight is the caller's: beta for 'code', beta / 2 for 'paper'.

    Args:
        student_map (Tensor): Shape (N, H, W), gradients flow to it.
        teacher_map (Tensor): Shape (N, H', W'); pass it detached.
        form (str): 'code' or 'paper'. Defaults to 'code'.
        p (float): Order of the norm for 'paper', at least 1. Defaults to 2, the only one for 'code'.
        size_mismatch (str): Where (H, W) differs from (H', W'), 'pool' brings both **maps** to the smaller height and
            width by average pooling, 'error' refuses. Defaults to 'pool'.

    Returns:
        Tensor: A scalar.

    Raises:
        ValueError: An unknown option, maps that are not (N, H, W), batches of unequal length, or unequal sizes under
            ``size_mismatch='error'``.
    """
    check_distance_options(form, p, size_mismatch)
    for name, attention in (('student', student_map), ('teacher', teacher_map)):
        if attention.dim() != 3:
            raise ValueError(f'attention_distance takes maps of shape (N, H, W), the {name} map has shape '
                             f'{tuple(attention.shape)}')
    if len(student_map) != len(teacher_map):
        raise ValueError(f'{len(student_map)} student maps but {len(teacher_map)} teacher maps')
    student_map, teacher_map = match_sizes(student_map, teacher_map, size_mismatch)
    difference = normalize_map(student_map) - normalize_map(teacher_map)
    if form == 'code':
        return difference.square().mean()
    return torch.linalg.vector_norm(difference, ord=p, dim=1).mean()


def activation_distance(student: Tensor, teacher: Tensor, size_mismatch: str = 'pool') -> Tensor:
    """Squared distance between whole activations of unit norm, averaged over the batch.

    ``mean_i || a_s/||a_s||_2 - a_t/||a_t||_2 ||_2^2`` with ``a`` all of one sample's activation as a vector: FitNets'
    hint loss (Romero et al., ICLR 2015, equation 3) on normalised activations; between 0 and 4 whatever the size. Its
    half is the caller's: beta / 2. Computed in float32 at least, also under autocast.

    Args:
        student (Tensor): Shape (N, C, H, W), gradients flow to it.
        teacher (Tensor): Shape (N, C, H', W'); pass it detached.
        size_mismatch (str): As in :func:`attention_distance`, of the activations. Defaults to 'pool'.

    Returns:
        Tensor: A scalar.

    Raises:
        ValueError: An unknown option, activations that are not (N, C, H, W) of equal N and C, or unequal sizes under
            ``size_mismatch='error'``.
    """
    check_distance_options('code', 2, size_mismatch)
    if student.dim() != 4 or teacher.dim() != 4 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError('activation_distance takes activations (N, C, H, W) of equal N and C, got '
                         f'{tuple(student.shape)} and {tuple(teacher.shape)}')
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = (at_least_float32(value) for value in (student, teacher))
        student, teacher = match_sizes(student, teacher, size_mismatch)
        return (normalize_map(student) - normalize_map(teacher)).square().sum(dim=1).mean()
