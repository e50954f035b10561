"""Number of parameters and of multiply-accumulates in a forward pass."""
from dataclasses import dataclass, field
from typing import Dict, Tuple

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from torch.utils.flop_counter import FlopCounterMode

from mmat.apis.image_pipeline import build_image_pipeline
from mmat.errors import ConfigError, UserError
from mmat.models.build_checks import eval_mode


@dataclass
class Complexity:
    """Cost of a network or one of its modules for one image.

    Attributes:
        parameters (int): Number of parameters, without buffers such as running statistics.
        operations (int): Multiply-accumulates of convolutions and matrix products, including attention and heads;
            papers on these networks call them FLOPs. Normalisation, activations and sums are not counted.
        modules (dict): Module path -> Complexity, for every module.
    """
    parameters: int
    operations: int
    modules: Dict[str, 'Complexity'] = field(default_factory=dict)


def measure_complexity(network: nn.Module, height: int, width: int) -> Complexity:
    """Count parameters and operations of a forward pass from the image to the scores.

    The counters of mmpretrain and mmengine run the feature extractor without the head.

    Args:
        network (nn.Module): An mmengine model. It is not changed.
        height (int): Height of the image in pixels.
        width (int): Width of the image in pixels.

    Raises:
        UserError: The network does not support this image size.
    """
    mean = getattr(getattr(network, 'data_preprocessor', None), 'mean', None)
    parameter = next(network.parameters(), torch.empty(0))
    image = torch.zeros(1, 3 if mean is None else len(mean), height, width, device=parameter.device,
                        dtype=parameter.dtype)
    with eval_mode(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        try:
            network(image, mode='tensor')
        except (RuntimeError, ValueError, AssertionError) as error:  # layers differ in how they refuse a size
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f'{type(network).__name__} does not run on an image of {height} x {width} pixels: '
                            f'{reason}') from error
    root, modules = type(network).__name__, dict(network.named_modules(remove_duplicate=False))
    counts = {name[len(root) + 1:]: sum(each.values()) // 2 for name, each in counter.get_flop_counts().items()
              if name.startswith(f'{root}.')}
    table = {}
    for path, module in reversed(modules.items()):
        # Containers such as ModuleList are not run themselves.
        children = sum(table[f'{path}.{name}'].operations for name, _ in module.named_children()) if path else 0
        table[path] = Complexity(_count_parameters(module), counts.get(path, children))
    return Complexity(_count_parameters(network), counter.get_total_flops() // 2,
                      {path: table[path] for path in modules if path})


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def image_size(config: Config) -> Tuple[int, int]:
    """Return the height and width of a config's test images, without reading them.

    Raises:
        ConfigError: The size depends on the image.
    """
    pipeline, _ = build_image_pipeline(config)
    # A landscape and a portrait picture.
    sizes = {tuple(pipeline(np.zeros((height, width, 3), np.uint8))['inputs'].shape[-2:])
             for height, width in ((375, 500), (500, 375))}
    if len(sizes) > 1:
        raise ConfigError("The image size is not fixed by the config's test pipeline. Set it with --shape.")
    return sizes.pop()
