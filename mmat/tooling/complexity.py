"""What a network costs: parameters and multiply-accumulates of one forward pass."""
from dataclasses import dataclass, field
from typing import Dict, Tuple

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from torch.utils.flop_counter import FlopCounterMode

from mmat.apis.image_pipeline import build_image_pipeline
from mmat.models.build_checks import eval_mode


@dataclass
class Complexity:
    """Cost of a network, or of one of its modules, for one image.

    Attributes:
        parameters (int): Weights that training changes; running statistics are none.
        operations (int): Multiply-accumulates of convolutions and products of matrices, those of attention and heads
            among them. Papers of this kind call them FLOPs. Normalisation, activations and sums are not counted.
        modules (dict): Module path -> Complexity of that module, for every module that was run.
    """
    parameters: int
    operations: int
    modules: Dict[str, 'Complexity'] = field(default_factory=dict)


def measure_complexity(network: nn.Module, height: int, width: int) -> Complexity:
    """Count what one forward pass takes, from the image to the scores.

    mmpretrain's and mmengine's counters run the feature extractor only, without the head.

    Args:
        network (nn.Module): An mmengine model; left as it was.
        height (int): Of the image, in pixels.
        width (int): Likewise.

    Raises:
        ValueError: The network does not run on such an image.
    """
    mean = getattr(getattr(network, 'data_preprocessor', None), 'mean', None)
    parameter = next(network.parameters(), torch.empty(0))
    image = torch.zeros(1, 3 if mean is None else len(mean), height, width, device=parameter.device,
                        dtype=parameter.dtype)
    with eval_mode(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        try:
            network(image, mode='tensor')
        except Exception as error:  # whatever its layers say to a size that is not theirs
            raise ValueError(f'{type(network).__name__} does not run on an image of {height} x {width} pixels: '
                             f'{(str(error).splitlines() or [type(error).__name__])[0]}') from error
    root, modules = type(network).__name__, dict(network.named_modules(remove_duplicate=False))
    counts = {name[len(root) + 1:]: sum(each.values()) // 2 for name, each in counter.get_flop_counts().items()
              if name.startswith(f'{root}.')}
    table = {}
    for path, module in reversed(modules.items()):
        # Lists of modules are not run themselves.
        inside = sum(table[f'{path}.{name}'].operations for name, _ in module.named_children()) if path else 0
        table[path] = Complexity(_count_parameters(module), counts.get(path, inside))
    return Complexity(_count_parameters(network), counter.get_total_flops() // 2,
                      {path: table[path] for path in modules if path})


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def image_size(config: Config) -> Tuple[int, int]:
    """Height and width of the images that a config tests on, told without reading them.

    Raises:
        ValueError: It does not tell.
    """
    pipeline, _ = build_image_pipeline(config)
    # What a picture that is wide becomes, and one that is high.
    sizes = {tuple(pipeline(np.zeros((height, width, 3), np.uint8))['inputs'].shape[-2:])
             for height, width in ((375, 500), (500, 375))}
    if len(sizes) > 1:
        raise ValueError('the test pipeline of the config leaves the size of an image to the image: give it with '
                         '--shape')
    return sizes.pop()
