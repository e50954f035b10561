"""Build networks from zoo names, config files and configs."""
from typing import Union

import torch.nn as nn
from mmengine.config import Config

from mmat.errors import ConfigError
from mmat.registry import MODELS
from mmat.utils.zoo import find_config


def network_config(model: Union[str, dict, Config]) -> dict:
    """Return the model config of a network.

    Args:
        model (str | dict | Config): A zoo name, a config file, a loaded config, or a model config (with ``type``). A
            distillation config gives its student, the network that its checkpoints hold.

    Returns:
        dict: A complete model config, including the data preprocessor.

    Raises:
        MissingFileError: The name or file does not exist.
        ConfigError: The config has no model.
    """
    if isinstance(model, str):
        model = Config.fromfile(find_config(model))
    scope = preprocessor = None
    if 'type' not in model:
        if 'model' not in model:
            raise ConfigError(f'The config defines no network: it needs `model` or `type`, got {sorted(model)}.')
        scope, preprocessor, model = model.get('default_scope'), model.get('data_preprocessor'), model['model']
    if 'student' in model:
        preprocessor, model = model.get('data_preprocessor', preprocessor), network_config(model['student'])
    if scope:
        # Types without a prefix, as in mmpretrain's configs, belong to the scope of the file.
        model = {'_scope_': scope, **model}
    preprocessor = model.get('data_preprocessor', preprocessor)
    if isinstance(preprocessor, dict):
        preprocessor = dict(preprocessor)  # mmpretrain's classifier writes into it
    return dict(model) if preprocessor is None else {**model, 'data_preprocessor': preprocessor}


def build_network(model: Union[str, dict, Config, nn.Module]) -> nn.Module:
    """Build a network from any input of :func:`network_config`; return a network unchanged."""
    return model if isinstance(model, nn.Module) else MODELS.build(network_config(model))
