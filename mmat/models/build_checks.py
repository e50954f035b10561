"""Trying a network on noise, so that what cannot work is told when it is built."""
from contextlib import contextmanager
from typing import Dict, Sequence

import torch
import torch.nn as nn
from torch.utils._pytree import tree_leaves

from mmat.utils.rng import preserve_rng_state

from .taps import tap

# Heights and widths of the image to try: CIFAR's, tiny ImageNet's, ImageNet's.
_SIZES = (32, 64, 224)


@contextmanager
def eval_mode(network: nn.Module):
    """In eval mode, every module, and then each back in its own; random states are left as they were."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with preserve_rng_state():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _noise(network: nn.Module, size: int) -> torch.Tensor:
    mean = getattr(getattr(network, 'data_preprocessor', None), 'mean', None)
    like = next(network.parameters(), torch.empty(0))
    conv = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    channels = len(mean) if mean is not None else conv.in_channels if conv is not None else 3
    return torch.randn(1, channels, size, size, device=like.device, dtype=like.dtype)


def _run(network: nn.Module, requires_grad: bool = False):
    """Input and output for one random image of the first size that the network takes.

    Raises:
        Exception: The network's own, where it takes none.
    """
    for size in _SIZES:
        inputs = _noise(network, size).requires_grad_(requires_grad)
        try:
            return inputs, network(inputs, mode='tensor')
        except Exception:
            if size == _SIZES[-1]:
                raise


def output_shapes(network: nn.Module, layers: Sequence[str], owner: str) -> Dict[str, torch.Size]:
    """Shapes of what some layers give for one image of a usual size.

    Raises:
        ValueError: The network runs on none, or as :func:`mmat.models.taps.tap`.
    """
    with eval_mode(network), torch.no_grad():
        try:
            inputs, _ = _run(network)
        except Exception as error:
            raise ValueError(f'{owner} ({type(network).__name__}) runs on no image of {_SIZES} pixels, so the widths '
                             f'of its layers cannot be told: {error}') from error
        with tap(network, layers, owner) as features:
            network(inputs, mode='tensor')
    return {layer: feature.shape for layer, feature in features.items()}


def check_input_gradient(network: nn.Module, owner: str, twice: bool) -> None:
    """Refuse a network whose input gradient autograd cannot give, or cannot differentiate in turn.

    Says nothing of a network that runs on no usual size of image; its first step will.

    Args:
        network (nn.Module): An mmengine model.
        owner (str): How messages call it.
        twice (bool): Whether the gradient itself is to be differentiated with respect to the parameters.

    Raises:
        ValueError: A frozen network (``twice`` only), or one that is not differentiable.
    """
    name = f'{owner} ({type(network).__name__})'
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if twice and not parameters:
        raise ValueError(f'a head that reads input gradients has nothing to train: {name} is frozen, none of its '
                         'parameters requires a gradient')
    with eval_mode(network), torch.enable_grad():
        try:
            inputs, output = _run(network, requires_grad=True)
        except Exception:
            return
        tensors = [each for each in tree_leaves(output) if isinstance(each, torch.Tensor)]
        if not tensors:
            return
        kept = [(parameter, parameter.grad) for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            total = sum(each.float().square().sum() for each in tensors)
            gradient = torch.autograd.grad(total, inputs, create_graph=twice)[0]
            if twice:
                # The whole way: what can be differentiated only once complains when it is passed, not when asked for.
                gradient.square().sum().backward()
        except RuntimeError as error:
            raise ValueError(f'a head reads input gradients, but {name} is not {"twice " if twice else ""}'
                             f'differentiable with respect to its input: {str(error).splitlines()[0]}') from error
        finally:
            for parameter, grad in kept:
                parameter.grad = grad
