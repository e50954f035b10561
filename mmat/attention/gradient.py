"""Gradient-based attention (Zagoruyko & Komodakis, ICLR 2017, section 3.2)."""
import torch
from torch import Tensor

from mmat.errors import UserError

GRADIENT_FORMS = ('paper', 'squared')


def check_gradient_options(form: str) -> None:
    """Check the options of :func:`gradient_norm`.

    Raises:
        UserError: ``form`` is unknown.
    """
    if form not in GRADIENT_FORMS:
        raise UserError(f'The form of a gradient norm must be one of {GRADIENT_FORMS}, got {form!r}.')


def input_gradient(loss: Tensor, inputs: Tensor, create_graph: bool = False) -> Tensor:
    """Compute ``J = dL/dx``, the gradient of each sample's loss with respect to its input.

    Args:
        loss (Tensor): Scalar loss of a batch, the **mean** over its samples, computed from ``inputs``.
        inputs (Tensor): Shape (N, ...), requires a gradient.
        create_graph (bool): Make J differentiable, for double backpropagation. Defaults to False.

    Returns:
        Tensor: Shape of ``inputs``. Row ``i`` is ``d(N * loss)/dx_i``. If samples do not interact, this is the gradient
        of sample ``i``'s loss for any batch size. Under BN in train mode it includes the effect of ``x_i`` on the
        losses of the other samples. The graph of ``loss`` is kept for its backward pass.
    """
    return torch.autograd.grad(loss * len(inputs), inputs, create_graph=create_graph, retain_graph=True)[0]


def gradient_norm(gradient: Tensor, form: str = 'paper') -> Tensor:
    """Compute the norm of input gradients, or of their difference, averaged over the batch.

    - ``form='paper'``: mean of ``||J_i||_2``, the unsquared norm of the paper's equations.
    - ``form='squared'``: mean of ``||J_i||_2^2``, the energy that Drucker & LeCun (1992) minimise.

    The caller applies the weight, beta / 2 for both.

    Args:
        gradient (Tensor): Shape (N, ...).
        form (str): 'paper' or 'squared'. Defaults to 'paper'.

    Returns:
        Tensor: A scalar. The gradient of a zero row is zero.

    Raises:
        UserError: ``form`` is unknown.
    """
    check_gradient_options(form)
    rows = gradient.flatten(1)
    if form == 'squared':
        return rows.square().sum(dim=1).mean()
    return torch.linalg.vector_norm(rows, dim=1).mean()
