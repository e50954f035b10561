"""Build-time checks with a dummy forward pass."""
from contextlib import contextmanager
from typing import Dict, Mapping, Optional, Tuple

import torch
import torch.nn as nn
from torch.utils._pytree import tree_leaves

from mmat.errors import ConfigError, LayerError
from mmat.utils.rng import preserve_rng_state

from .taps import Layer, tap

# Image sizes to try: CIFAR, Tiny ImageNet, ImageNet.
_SIZES = ((32, 32), (64, 64), (224, 224))


@contextmanager
def eval_mode(network: nn.Module):
    """Put every module in eval mode within the context; restore modes and RNG states afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with preserve_rng_state():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _random_image(network: nn.Module, size: Tuple[int, int]) -> torch.Tensor:
    mean = getattr(getattr(network, 'data_preprocessor', None), 'mean', None)
    like = next(network.parameters(), torch.empty(0))
    conv = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 0 if mean is None else len(mean)
    if channels < 2 and conv is not None:  # a single mean may stand for all channels
        channels = conv.in_channels
    channels = channels or 3
    return torch.randn(1, channels, *size, device=like.device, dtype=like.dtype)


def _run(network: nn.Module, requires_grad: bool = False, sizes=_SIZES):
    """Return input and output of the network for one random image of the first size that it accepts.

    Raises:
        Exception: The network's error for the last size.
    """
    for size in sizes:
        inputs = _random_image(network, size).requires_grad_(requires_grad)
        try:
            return inputs, network(inputs, mode='tensor')
        except Exception:
            if size == sizes[-1]:
                raise


def find_input(network: nn.Module, owner: str, size: Optional[Tuple[int, int]] = None) -> torch.Tensor:
    """Return a random image that a network accepts, shape (1, C, H, W).

    Args:
        network (nn.Module): An mmengine model.
        owner (str): Name of the network in messages.
        size (tuple, optional): Height and width of the image. Defaults to None: the first of 32, 64 and 224 pixels that
            the network accepts.

    Raises:
        LayerError: The network accepts no such image.
    """
    sizes = _SIZES if size is None else (tuple(size), )
    with eval_mode(network), torch.no_grad():
        try:
            return _run(network, sizes=sizes)[0]
        except (RuntimeError, ValueError, AssertionError) as error:  # of shapes; a bug raises others
            tried = ', '.join(f'{height} x {width}' for height, width in sizes)
            reason = ' '.join(str(error).split())
            raise LayerError(f'The {owner} ({type(network).__name__}) accepts no image of {tried} pixels: {reason}') \
                from error


def output_shapes(network: nn.Module,
                  layers: Mapping[Layer, str],
                  owner: str,
                  size: Optional[Tuple[int, int]] = None) -> Dict[Layer, torch.Size]:
    """Return the shapes of layers' outputs for one image.

    Args:
        network (nn.Module): An mmengine model.
        layers (Mapping): Name -> module path.
        owner (str): Name of the network in messages.
        size (tuple, optional): Height and width of the image, see :func:`find_input`. Defaults to None.

    Returns:
        dict: Name -> shape, with a batch dimension of 1.

    Raises:
        LayerError: The network accepts no such image, or as :func:`mmat.models.taps.tap`.
    """
    if not layers:
        return {}
    with eval_mode(network), torch.no_grad():
        inputs = find_input(network, owner, size)
        with tap(network, list(dict.fromkeys(layers.values())), owner) as features:
            network(inputs, mode='tensor')
    return {name: features[path].shape for name, path in layers.items()}


def check_input_gradient(network: nn.Module, owner: str, twice: bool) -> None:
    """Check that autograd can compute a network's input gradient.

    A network that accepts no image of the usual sizes is not checked.

    Args:
        network (nn.Module): An mmengine model.
        owner (str): Name of the network in messages.
        twice (bool): Whether the gradient itself must be differentiable with respect to the parameters.

    Raises:
        ConfigError: The network is not differentiable with respect to its input, or, with ``twice``, is frozen.
    """
    name = f'{owner} ({type(network).__name__})'
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if twice and not parameters:
        raise ConfigError('A head that reads input gradients needs a student to train, but none of the parameters of '
                          f'the {name} requires a gradient.')
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
            total = torch.stack([each.float().square().sum() for each in tensors]).sum()
            gradient = torch.autograd.grad(total, inputs, create_graph=twice)[0]
            if twice:
                # Run the second backward pass: an operation without a second derivative raises only there.
                gradient.square().sum().backward()
        except RuntimeError as error:
            raise ConfigError(f'A head reads input gradients, but the {name} is not {"twice " if twice else ""}'
                              f'differentiable with respect to its input: {str(error).splitlines()[0]}') from error
        finally:
            for parameter, grad in kept:
                parameter.grad = grad
