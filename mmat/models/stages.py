"""Stages of a network's backbone."""
import re
from typing import Any, List

import torch.nn as nn

# Attributes that list the stages: ours, mmpretrain's ResNets, its hierarchical and its plain transformers.
_STAGE_ATTRIBUTES = ('stage_names', 'res_layers', 'stages', 'layers')


def stage_paths(model: nn.Module) -> List[str]:
    """Return the module paths of a network's stages, in order.

    The stages are those of ``model.backbone`` for mmat's and mmpretrain's networks. For timm's networks, also inside
    ``mmpretrain.TimmClassifier``, they are the entries of ``feature_info`` without the stem. Stage 0 of a ResNet is
    ``layer1`` in both families.

    Args:
        model (nn.Module): The whole network.

    Returns:
        list[str]: Empty if the network does not define its stages.
    """
    for owner in ('backbone.timm_model.model', 'backbone.timm_model', 'backbone', 'model'):
        try:
            network = model.get_submodule(owner)
        except AttributeError:
            continue
        return [f'{owner}.{name}' for name in _stage_names(network)]
    return []


def _stage_names(network: nn.Module) -> List[str]:
    info = getattr(network, 'feature_info', None)
    if info is not None:
        names = _timm_stages(network, info)
        if names:
            return names
    for attribute in _STAGE_ATTRIBUTES:
        stages = getattr(network, attribute, None)
        if isinstance(stages, (nn.ModuleList, nn.Sequential)):
            return [f'{attribute}.{i}' for i in range(len(stages))]
        if isinstance(stages, (list, tuple)) and stages and all(isinstance(name, str) for name in stages):
            return list(stages)
    # mmpretrain's VGG is one sequence of layers; each range ends with a stage's max-pooling.
    return [f'{network.module_name}.{end - 1}' for _, end in getattr(network, 'range_sub_modules', ())]


def _timm_stages(network: nn.Module, info: Any) -> List[str]:
    """Stages of a timm network; empty if ``feature_info`` names modules that it does not have."""
    info = info.get_dicts() if hasattr(info, 'get_dicts') else list(info)
    paths = {path for path, _ in network.named_modules()}
    # A network built with features_only has underscores where feature_info has dots.
    names = [name if name in paths else str(name).replace('.', '_') for name in (each.get('module') for each in info)]
    if not all(name in paths for name in names):
        return []
    return names[1:] if _begins_with_stem(info) else names


def _begins_with_stem(info: List[dict]) -> bool:
    """Whether the first entry is a stem: named unlike the second, at a smaller stride of at most 2."""
    if len(info) < 2:
        return False
    kinds = [re.split(r'\d', each['module'])[0] for each in info[:2]]
    strides = [each.get('reduction', 0) for each in info[:2]]
    return kinds[0] != kinds[1] and 0 < strides[0] < strides[1] and strides[0] <= 2
