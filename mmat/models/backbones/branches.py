"""Gradients where branches of a network meet."""
from torch import Tensor


def average_gradient(x: Tensor, count: int) -> Tensor:
    """The same values, whose gradient, a sum over ``count`` branches, becomes their average.

    Torch's own graph sums; the hand-written backward pass of the "Learn to Pay Attention" authors averages.

    Args:
        x (Tensor): Any shape; each of ``count`` branches reads the result.
        count (int): How many.
    """
    if count == 1 or not x.requires_grad:
        return x
    x = x.view_as(x)
    x.register_hook(lambda gradient: gradient / count)
    return x
