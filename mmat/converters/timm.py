"""Weights of timm's models, for mmpretrain's wrappers of them."""
from typing import Dict

from torch import Tensor

from mmat.utils.checkpoint import strip_module_prefix

# What timm's models call their classifier.
_CLASSIFIERS = ('fc', 'classifier', 'head.fc', 'head')


def convert_timm(state: Dict[str, Tensor], wrapper: str = 'TimmClassifier') -> Dict[str, Tensor]:
    """Rename the weights of a model of ``timm.create_model``.

    ``mmpretrain.TimmClassifier`` is the whole model and takes its weights by timm's own names.
    ``mmpretrain.TIMMBackbone`` is it without pooling and classifier, which are the config's neck and head. That gives
    the same outputs where timm's model ends with average pooling and one linear layer, as its ResNets do;
    ``tools/model_converters/timm_models.py`` tries whether it does.

    Args:
        state (dict): State dict, with or without the prefix ``module.`` of training on several GPUs.
        wrapper (str): 'TimmClassifier' or 'TIMMBackbone'. Defaults to 'TimmClassifier'.

    Returns:
        dict: State dict of the network that the config builds.

    Raises:
        ValueError: Another wrapper, or no single linear classifier to be told from the rest of the weights.
    """
    state = strip_module_prefix(state)
    if wrapper == 'TimmClassifier':
        return state
    if wrapper != 'TIMMBackbone':
        raise ValueError(f"wrapper must be 'TimmClassifier' or 'TIMMBackbone', got {wrapper!r}")
    found = [name for name in _CLASSIFIERS if f'{name}.weight' in state and state[f'{name}.weight'].dim() == 2]
    if len(found) != 1:
        raise ValueError(f'no single linear classifier ({", ".join(_CLASSIFIERS)}) can be told from the other weights; '
                         'mmpretrain.TimmClassifier takes the model as a whole')
    prefix = f'{found[0]}.'
    return {f'head.fc.{key[len(prefix):]}' if key.startswith(prefix) else f'backbone.timm_model.{key}': value
            for key, value in state.items()}
