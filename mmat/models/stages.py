"""Where networks keep their stages."""
from typing import List

import torch.nn as nn

# Ours, mmpretrain's ResNet family, its hierarchical and its plain transformers.
_STAGE_ATTRIBUTES = ('stage_names', 'res_layers', 'stages', 'layers')


def stage_paths(model: nn.Module) -> List[str]:
    """Paths of a network's stages, in order; empty where it has none that can be told.

    They are those of its ``backbone``: ours, mmpretrain's, or timm's (also ``mmpretrain.TimmClassifier``), whose stages
    are what timm calls its ``feature_info``, the stem among them.

    Args:
        model (nn.Module): The whole network.
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
        # timm's; where it gives features only, they have their names with underscores.
        names = info.module_name() if hasattr(info, 'module_name') else [each.get('module') for each in info]
        paths = [path for path, _ in network.named_modules()]
        names = [name if name in paths else str(name).replace('.', '_') for name in names]
        if all(name in paths for name in names):
            return names
    for attribute in _STAGE_ATTRIBUTES:
        stages = getattr(network, attribute, None)
        if isinstance(stages, (nn.ModuleList, nn.Sequential)):
            return [f'{attribute}.{i}' for i in range(len(stages))]
        if isinstance(stages, (list, tuple)) and stages and all(isinstance(name, str) for name in stages):
            return list(stages)
    if hasattr(network, 'range_sub_modules'):
        # mmpretrain's VGG: one sequence of layers, and where each stage, up to its max-pooling, lies in it.
        return [f'{network.module_name}.{end - 1}' for _, end in network.range_sub_modules]
    return []
