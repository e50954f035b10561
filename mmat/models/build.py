"""Networks from whatever a user has to name one."""
from typing import Union

import torch.nn as nn
from mmengine.config import Config

from mmat.registry import MODELS
from mmat.utils.zoo import find_config


def network_config(model: Union[str, dict, Config]) -> dict:
    """The model config of one network.

    Args:
        model (str | dict | Config): A zoo name, a config file, a loaded config, or a model config (with ``type``). Of
            a distillation config it is the student: that is what its checkpoints hold.

    Returns:
        dict: A model config that builds by itself, its data preprocessor included.

    Raises:
        FileNotFoundError: A name or file that is not there.
        ValueError: A config without a model.
    """
    if isinstance(model, str):
        model = Config.fromfile(find_config(model))
    scope = preprocessor = None
    if 'type' not in model:
        if 'model' not in model:
            raise ValueError(f'a config without `model` and without `type` is no network: it has {sorted(model)}')
        scope, preprocessor, model = model.get('default_scope'), model.get('data_preprocessor'), model['model']
    if 'student' in model:
        preprocessor, model = model.get('data_preprocessor', preprocessor), network_config(model['student'])
    if scope:
        # Types without a prefix, as in mmpretrain's own configs, are those of the file's scope, wherever it is built.
        model = {'_scope_': scope, **model}
    preprocessor = model.get('data_preprocessor', preprocessor)
    if isinstance(preprocessor, dict):
        preprocessor = dict(preprocessor)  # mmpretrain's classifier writes into it
    return dict(model) if preprocessor is None else {**model, 'data_preprocessor': preprocessor}


def build_network(model: Union[str, dict, Config, nn.Module]) -> nn.Module:
    """Build a network from what :func:`network_config` takes; a network is given back as it is."""
    return model if isinstance(model, nn.Module) else MODELS.build(network_config(model))
