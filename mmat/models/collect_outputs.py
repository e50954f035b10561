"""Collect layer outputs, logits and input gradients of a network in one forward pass."""
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_map

from mmat.attention import input_gradient
from mmat.errors import LayerError
from mmat.utils.rng import get_rng_state, preserve_rng_state, set_rng_state

from .at_heads.base import GRADIENTS, NetworkOutputs
from .taps import EarlyExit, Layer, tap
from .targets import read_targets

# Modules whose output are the logits: of mmpretrain's classifiers, and of its wrapper around timm's.
_LOGITS = ('head', 'model')


def find_logits(network: nn.Module, owner: str = 'model') -> str:
    """Return the path of the module whose output are the logits.

    Raises:
        LayerError: The network has no classification head.
    """
    for path in _LOGITS:
        if isinstance(getattr(network, path, None), nn.Module):
            return path
    raise LayerError(f'The {owner} ({type(network).__name__}) has no classification head. Logits are read from its '
                     f'{" or ".join(repr(path) for path in _LOGITS)}; its modules are '
                     f'{[name for name, _ in network.named_children()]}.')


def collect_outputs(network: nn.Module,
                    inputs: Tensor,
                    data_samples: Optional[list],
                    layers: Mapping[Layer, str],
                    wants: Sequence[str],
                    owner: str,
                    mode: str = 'loss',
                    create_graph: bool = False,
                    transform=None,
                    early_exit: Optional[EarlyExit] = None) -> Tuple[Any, NetworkOutputs]:
    """Run a network and collect the outputs that heads read.

    Args:
        network (nn.Module): Called as mmengine's models are.
        inputs (Tensor): Shape (N, C, H, W).
        data_samples (list): Labels.
        layers (Mapping): Key in ``NetworkOutputs.features`` -> module path.
        wants (Sequence[str]): Names from :data:`mmat.models.at_heads.base.QUANTITIES`.
        owner (str): Name of the network in messages.
        mode (str): Mode of the forward pass: 'loss' or 'tensor'. Gradients need 'loss'. Defaults to 'loss'.
        create_graph (bool): Whether the gradients are differentiable; ignored under ``torch.no_grad``. Defaults to
            False.
        transform (callable, optional): Applied to the images before the network. Gradients are with respect to the
            images before it. Defaults to None.
        early_exit (EarlyExit, optional): See :func:`mmat.models.taps.tap`; ignored where the whole pass is needed.
            Defaults to None.

    Returns:
        tuple: The network's return value, None if its pass ended early, and the :class:`NetworkOutputs`. Under
        ``torch.no_grad`` neither has a graph.

    Raises:
        DataError: The batch has no labels, but a head reads them.
        LayerError: As :func:`mmat.models.taps.tap`.
    """
    transform = transform or (lambda images: images)
    wants_gradient = any(name in GRADIENTS for name in wants)
    keeps_graph = torch.is_grad_enabled()
    create_graph = create_graph and keeps_graph
    logits = find_logits(network, owner) if 'logits' in wants else None
    start = get_rng_state() if 'flipped_input_gradient' in wants else None
    # Input gradients are computed for a teacher and in validation too.
    with torch.set_grad_enabled(wants_gradient or keeps_graph):
        if wants_gradient:
            inputs, early_exit = inputs.detach().requires_grad_(), None
        output = None
        paths = list(dict.fromkeys([*layers.values(), *([logits] if logits else [])]))
        with tap(network, paths, owner, early_exit) as features:
            output = network(transform(inputs), data_samples, mode=mode)
        values: Dict[str, Any] = {}
        if 'input_gradient' in wants:
            values['input_gradient'] = input_gradient(total_loss(output), inputs, create_graph)
        if start is not None:
            # Copies of the buffers, so that the mirrored images do not update BN's running statistics. Dropout draws
            # the same mask for an image and its mirror image.
            buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
            with preserve_rng_state():
                set_rng_state(start)
                mirrored = functional_call(
                    network, buffers, (transform(inputs.flip(-1)), data_samples), dict(mode=mode))
            # Differentiated through the flip, so the gradient is flipped back.
            values['flipped_input_gradient'] = input_gradient(total_loss(mirrored), inputs, create_graph)
    if logits:
        values['logits'] = features[logits]
    if 'targets' in wants:
        values['targets'] = read_targets(data_samples)
    values['features'] = {layer: features[path] for layer, path in layers.items()}
    if not keeps_graph:
        output, values = tree_map(lambda each: each.detach() if isinstance(each, Tensor) else each, (output, values))
    return output, NetworkOutputs(**values)


def total_loss(losses: Dict[str, Union[Tensor, Sequence[Tensor]]]) -> Tensor:
    """Sum the entries with 'loss' in their name, as mmengine's ``BaseModel.parse_losses`` does."""
    means: List[Any] = [value.mean() if isinstance(value, Tensor) else sum([each.mean() for each in value])
                        for name, value in losses.items() if 'loss' in name]
    return sum(means)
