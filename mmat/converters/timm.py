"""Converter for timm's models, for mmpretrain's wrappers of timm."""
from typing import Dict

from torch import Tensor

from mmat.errors import CheckpointError, UserError
from mmat.utils.checkpoint import strip_module_prefix

# Names of the classifier in timm's models.
_CLASSIFIERS = ('fc', 'classifier', 'head.fc', 'head')


def convert_timm(state: Dict[str, Tensor], wrapper: str = 'TimmClassifier') -> Dict[str, Tensor]:
    """Rename the weights of a model of ``timm.create_model``.

    ``mmpretrain.TimmClassifier`` wraps the whole model and keeps timm's names. ``mmpretrain.TIMMBackbone`` wraps the
    model without pooling and classifier; these are the config's neck and head. The outputs are equal if timm's model
    ends with average pooling and one linear layer, like its ResNets. ``tools/model_converters/timm_models.py`` compares
    them.

    Args:
        state (dict): State dict, with or without the prefix ``module.`` of training on several GPUs.
        wrapper (str): 'TimmClassifier' or 'TIMMBackbone'. Defaults to 'TimmClassifier'.

    Returns:
        dict: State dict of the network that the config builds.

    Raises:
        UserError: ``wrapper`` is unknown.
        CheckpointError: The model has no linear classifier, or several candidates.
    """
    state = strip_module_prefix(state)
    if wrapper == 'TimmClassifier':
        return state
    if wrapper != 'TIMMBackbone':
        raise UserError(f"The wrapper of a timm model must be 'TimmClassifier' or 'TIMMBackbone', got {wrapper!r}.")
    found = [name for name in _CLASSIFIERS if f'{name}.weight' in state and state[f'{name}.weight'].dim() == 2]
    if len(found) != 1:
        raise CheckpointError(f'TIMMBackbone needs one linear classifier among {", ".join(_CLASSIFIERS)}; found '
                              f'{", ".join(found) or "none"}. Use mmpretrain.TimmClassifier.')
    prefix = f'{found[0]}.'
    return {f'head.fc.{key[len(prefix):]}' if key.startswith(prefix) else f'backbone.timm_model.{key}': value
            for key, value in state.items()}
