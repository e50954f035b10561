"""Build networks by name or config."""
import os
from typing import Optional, Union

import mmpretrain
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.model import BaseModel

from mmat.errors import CheckpointError, UserError
from mmat.models import network_config
from mmat.utils.checkpoint import load_weights
from mmat.utils.zoo import find_config, find_weights, list_models

__all__ = ['get_model', 'list_models', 'load_pretrained']


def get_model(model: Union[str, os.PathLike, Config],
              pretrained: Union[bool, str, os.PathLike] = False,
              device: Optional[Union[str, torch.device]] = None,
              **kwargs) -> BaseModel:
    """Build a network in eval mode from a name or a config.

    A distillation config gives its student, which is what its checkpoints hold. The teacher's file is not needed.

    Args:
        model (str | PathLike | Config): A name from :func:`list_models` or mmpretrain's zoo, the path of a config file,
            or a config.
        pretrained (bool | str | PathLike): True for the zoo's weights, or a checkpoint file, work directory or URL. A
            file with a hash in its name is verified. Defaults to False, random initialization.
        device (str | torch.device, optional): Device of the network. Defaults to None, the CPU.
        **kwargs: Merged into the model config, such as ``backbone=dict(out_indices=(0, 1, 2))``.

    Returns:
        BaseModel: The network, with its config as ``_config`` and its class names, if known, in ``_dataset_meta``.

    Raises:
        MissingFileError: The name, config or checkpoint does not exist. The message suggests similar names.
        FileError: The weights cannot be downloaded.
        CheckpointError: The checkpoint cannot be read, does not fit or fails its hash, or ``pretrained=True`` and the
            zoo has no weights.
        UserError: The device does not exist.
    """
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    config = Config.fromfile(find_config(model)) if isinstance(model, str) else model.copy()
    if pretrained is True:
        pretrained = find_weights(model) or '' if isinstance(model, str) else ''
        if not pretrained:
            name = model if isinstance(model, str) else 'a config object'
            raise CheckpointError(f'The zoo has no weights for {name}. Train it, or give a checkpoint with '
                                  'pretrained=PATH.')
    if device is not None:
        _check_device(device)
    config.model = network_config(config)
    network = mmpretrain.get_model(config, **kwargs)
    if pretrained:
        load_pretrained(network, pretrained)
    return network if device is None else network.to(device)


def _check_device(device: Union[str, torch.device]) -> None:
    """Raise UserError if the device does not exist."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        available = "'cpu' and 'cuda'" if torch.cuda.is_available() else "'cpu'"
        raise UserError(f'No device {str(device)!r}, available: {available} ({str(error).splitlines()[0]}).') from error


def load_pretrained(network: nn.Module, pretrained: Union[str, os.PathLike]) -> None:
    """Load weights into a network, and the file's class names into ``network._dataset_meta``.

    Args:
        network (nn.Module): From :func:`get_model`.
        pretrained (str | PathLike): A checkpoint file, work directory or URL.

    Raises:
        MissingFileError, FileError, CheckpointError: See :func:`get_model`.
    """
    load_weights(network, os.fspath(pretrained))
