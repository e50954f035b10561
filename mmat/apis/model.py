"""Models by name."""
from typing import Optional, Union

import mmpretrain
import torch
import torch.nn as nn
from mmengine.config import Config

from mmat.models import network_config
from mmat.utils.checkpoint import load_weights
from mmat.utils.zoo import find_config, list_models, zoo_index

__all__ = ['get_model', 'list_models']


def get_model(model: Union[str, Config],
              pretrained: Union[bool, str] = False,
              device: Optional[Union[str, torch.device]] = None,
              **kwargs) -> nn.Module:
    """A network in eval mode, by name or config.

    Of a distillation config it is the student, which is what its checkpoints hold; no teacher file is needed.

    Args:
        model (str | Config): A name from :func:`list_models`, the path of a config file, or a config.
        pretrained (bool | str): True for the zoo's weights, or a checkpoint file, work directory or URL. Defaults to
            False, as initialised.
        device (str | torch.device, optional): Where to put it. Defaults to None, the CPU.
        **kwargs: Merged into the model config, such as ``backbone=dict(out_indices=(0, 1, 2))``.

    Returns:
        nn.Module: The model, with its config as ``_config``.

    Raises:
        FileNotFoundError: No such name, config or checkpoint; the message names the closest.
        ValueError: ``pretrained=True`` and the zoo has no weights, or a checkpoint that does not fit.
    """
    config = Config.fromfile(find_config(model)) if isinstance(model, str) else model.copy()
    if pretrained is True:
        pretrained = zoo_index().get(model, {}).get('Weights') if isinstance(model, str) else None
        if not pretrained:
            raise ValueError(f'the zoo has no weights for {model if isinstance(model, str) else "a config"}: train it, '
                             'or name a checkpoint with pretrained=PATH')
    config.model = network_config(config)
    network = mmpretrain.get_model(config, device=device, **kwargs)
    if pretrained:
        load_weights(network, pretrained)
    return network
