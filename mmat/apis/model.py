"""Models by name."""
import os
from typing import Optional, Union

import mmpretrain
import torch
import torch.nn as nn
from mmengine.config import Config

from mmat.models import network_config
from mmat.utils.checkpoint import load_weights
from mmat.utils.zoo import find_config, find_weights, list_models

__all__ = ['get_model', 'list_models', 'load_pretrained']


def get_model(model: Union[str, os.PathLike, Config],
              pretrained: Union[bool, str, os.PathLike] = False,
              device: Optional[Union[str, torch.device]] = None,
              **kwargs) -> nn.Module:
    """A network in eval mode, by name or config.

    Of a distillation config it is the student, which is what its checkpoints hold; no teacher file is needed.

    Args:
        model (str | PathLike | Config): A name from :func:`list_models` or of mmpretrain's zoo, the path of a config
            file, or a config.
        pretrained (bool | str | PathLike): True for the zoo's weights, or a checkpoint file, work directory or URL.
            What was published with a hash in its name must have that hash. Defaults to False, as initialised.
        device (str | torch.device, optional): Where to put it. Defaults to None, the CPU.
        **kwargs: Merged into the model config, such as ``backbone=dict(out_indices=(0, 1, 2))``.

    Returns:
        nn.Module: The model, with its config as ``_config``, and what is known of its classes as ``_dataset_meta``.

    Raises:
        FileNotFoundError: No such name, config or checkpoint; the message names the closest.
        OSError: Weights that cannot be downloaded.
        ValueError: A device that is not there; ``pretrained=True`` and the zoo has no weights, or a checkpoint that
            does not fit, or is not the one that was published under its name.
    """
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    config = Config.fromfile(find_config(model)) if isinstance(model, str) else model.copy()
    if pretrained is True:
        pretrained = find_weights(model) if isinstance(model, str) else None
        if not pretrained:
            raise ValueError(f'the zoo has no weights for {model if isinstance(model, str) else "a config"}: train it, '
                             'or name a checkpoint with pretrained=PATH')
    if device is not None:
        _check_device(device)
    config.model = network_config(config)
    network = mmpretrain.get_model(config, **kwargs)
    if pretrained:
        load_pretrained(network, pretrained)
    return network if device is None else network.to(device)


def _check_device(device: Union[str, torch.device]) -> None:
    """Raise ValueError where there is no such device."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        there = "'cpu' and 'cuda'" if torch.cuda.is_available() else "'cpu'"
        raise ValueError(f'there is no device {str(device)!r} here, but {there} '
                         f'({str(error).splitlines()[0]})') from error


def load_pretrained(network: nn.Module, pretrained: Union[str, os.PathLike]) -> None:
    """Load weights into a network, and what their file tells of the classes, as ``network._dataset_meta``.

    Args:
        network (nn.Module): From :func:`get_model`.
        pretrained (str | PathLike): A checkpoint file, work directory or URL.

    Raises:
        FileNotFoundError, OSError, ValueError: As :func:`get_model`.
    """
    checkpoint = load_weights(network, pretrained)
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    # mmpretrain's; the second are its names of before version 1.
    dataset_meta = meta.get('dataset_meta')
    classes = dataset_meta.get('classes') if isinstance(dataset_meta, dict) else meta.get('CLASSES')
    if classes:
        network._dataset_meta = dict(classes=classes)
