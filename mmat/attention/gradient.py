"""Gradient-based attention (Zagoruyko & Komodakis, ICLR 2017, section 3.2): where the loss feels the input."""
import torch
from torch import Tensor

GRADIENT_FORMS = ('paper', 'squared')


def check_gradient_options(form: str) -> None:
    """Raise ValueError where ``form`` is not one that :func:`gradient_norm` takes."""
    if form not in GRADIENT_FORMS:
        raise ValueError(f'form of a gradient norm must be one of {GRADIENT_FORMS}, got {form!r}')


def input_gradient(loss: Tensor, inputs: Tensor, create_graph: bool = False) -> Tensor:
    """``J = dL/dx``: the gradient of each sample's own loss with respect to the input.

    Args:
        loss (Tensor): Loss of a batch, a scalar, the **mean** over its samples, computed from ``inputs``.
        inputs (Tensor): Shape (N, ...), requires a gradient.
        create_graph (bool): Whether J itself shall be differentiable (double backpropagation). Defaults to False.

    Returns:
        Tensor: Shape of ``inputs``. Row ``i`` is ``d(N * loss)/dx_i``: where samples do not mix, the gradient of
        sample ``i``'s loss, whatever the batch size; under BN in train mode it includes what ``x_i`` does to the
        losses of the others. The graph of ``loss`` is kept, for its own backward pass.
    """
    return torch.autograd.grad(loss * len(inputs), inputs, create_graph=create_graph, retain_graph=True)[0]


def gradient_norm(gradient: Tensor, form: str = 'paper') -> Tensor:
    """Norm of input gradients, or of their difference, averaged over the batch.

    - ``form='paper'``: mean of ``||J_i||_2``, the norm unsquared, as the paper prints its equations.
    - ``form='squared'``: mean of ``||J_i||_2^2``, the energy that Drucker & LeCun (1992) minimise.

    The weight is the caller's: beta / 2 in both.

    Args:
        gradient (Tensor): Shape (N, ...).
        form (str): 'paper' or 'squared'. Defaults to 'paper'.

    Returns:
        Tensor: A scalar. Where a row is zero, so is its gradient.

    Raises:
        ValueError: An unknown form.
    """
    check_gradient_options(form)
    rows = gradient.flatten(1)
    if form == 'squared':
        return rows.square().sum(dim=1).mean()
    return torch.linalg.vector_norm(rows, dim=1).mean()
