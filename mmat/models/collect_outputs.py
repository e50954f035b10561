"""What heads read of a network: one forward pass, and its input gradients."""
from typing import Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_map

from mmat.attention import input_gradient
from mmat.utils.rng import get_rng_state, preserve_rng_state, set_rng_state

from .at_heads.base import GRADIENTS, NetworkOutputs
from .taps import EarlyExit, tap
from .targets import read_targets

# Where networks keep what gives their logits: mmpretrain's classifiers, its wrapper around timm's.
_LOGITS = ('head', 'model')


def find_logits(network: nn.Module, owner: str = 'model') -> str:
    """Path of the module whose output are the logits.

    Raises:
        ValueError: Nothing there.
    """
    for path in _LOGITS:
        if isinstance(getattr(network, path, None), nn.Module):
            return path
    raise ValueError(f'{owner} ({type(network).__name__}) has no classification head: logits are read from its '
                     f'{" or ".join(repr(path) for path in _LOGITS)}, and it has '
                     f'{[name for name, _ in network.named_children()]}')


def collect_outputs(network: nn.Module,
            inputs: Tensor,
            data_samples: Optional[list],
            layers: Sequence[str],
            wants: Sequence[str],
            owner: str,
            mode: str = 'loss',
            create_graph: bool = False,
            transform=None,
            early_exit: Optional[EarlyExit] = None) -> Tuple[Union[Dict[str, Tensor], Tensor], NetworkOutputs]:
    """Run a network and collect what heads want of it.

    Args:
        network (nn.Module): Called as mmengine's models are.
        inputs (Tensor): Shape (N, C, H, W).
        data_samples (list): Labels.
        layers (Sequence[str]): Module paths to read.
        wants (Sequence[str]): Of :data:`mmat.models.at_heads.base.QUANTITIES`.
        owner (str): How messages call the network.
        mode (str): How to run it: 'loss' or 'tensor'. Defaults to 'loss', which the gradients need.
        create_graph (bool): Whether the gradients shall be differentiable; not under ``torch.no_grad``. Defaults to
            False.
        transform (callable, optional): Applied to the images before the network; gradients are with respect to the
            images before it. Defaults to None.
        early_exit (EarlyExit, optional): See :func:`mmat.models.taps.tap`; without effect where the whole pass is needed.
            Defaults to None.

    Returns:
        tuple: What the network gave, None where its pass ended early, and the :class:`NetworkOutputs`; under
        ``torch.no_grad`` neither has a graph.

    Raises:
        ValueError: Labels that are not there, or as :func:`mmat.models.taps.tap`.
    """
    transform = transform or (lambda images: images)
    wants_gradient = any(name in GRADIENTS for name in wants)
    keeps_graph = torch.is_grad_enabled()
    create_graph = create_graph and keeps_graph
    logits = find_logits(network, owner) if 'logits' in wants else None
    start = get_rng_state() if 'flipped_input_gradient' in wants else None
    # Gradients are wanted of a teacher and in validation too.
    with torch.set_grad_enabled(wants_gradient or keeps_graph):
        if wants_gradient:
            inputs, early_exit = inputs.detach().requires_grad_(), None
        output = None
        with tap(network, [*layers, *([logits] if logits else [])], owner, early_exit) as features:
            output = network(transform(inputs), data_samples, mode=mode)
        values = {}
        if 'input_gradient' in wants:
            values['input_gradient'] = input_gradient(total_loss(output), inputs, create_graph)
        if 'flipped_input_gradient' in wants:
            # Copies, so that BN's running statistics count each image once, and mirrored images not at all. Dropout
            # draws for the mirrored image what it drew for the image.
            buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
            with preserve_rng_state():
                set_rng_state(start)
                mirrored = functional_call(
                    network, buffers, (transform(inputs.flip(-1)), data_samples), dict(mode=mode))
            # Differentiated through the flip, the gradient comes back flipped.
            values['flipped_input_gradient'] = input_gradient(total_loss(mirrored), inputs, create_graph)
    if logits:
        values['logits'] = features[logits]
    if 'targets' in wants:
        values['targets'] = read_targets(data_samples)
    values['features'] = {layer: features[layer] for layer in layers}
    if not keeps_graph:
        output, values = tree_map(lambda each: each.detach() if isinstance(each, Tensor) else each, (output, values))
    return output, NetworkOutputs(**values)


def total_loss(losses: Dict[str, Union[Tensor, Sequence[Tensor]]]) -> Tensor:
    """Sum of what has 'loss' in its name, as mmengine's ``BaseModel.parse_losses`` has it."""
    return sum(value.mean() if isinstance(value, Tensor) else sum(each.mean() for each in value)
               for name, value in losses.items() if 'loss' in name)
