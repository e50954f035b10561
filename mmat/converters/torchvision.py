"""Weights of torchvision's ResNet and VGG."""
import re
from typing import Dict

from torch import Tensor

from mmat.utils.checkpoint import strip_module_prefix

from .renaming import BN, count_blocks, rename
from .resnet import resnet_convs


def convert_torchvision(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename the weights of torchvision's ResNet (wide ones too) and VGG (with and without BN) for mmpretrain's.

    Args:
        state (dict): State dict, with or without the prefix ``module.`` of training on several GPUs.

    Returns:
        dict: State dict of the network that the config builds. A VGG's classifier is part of its backbone.

    Raises:
        ValueError: Weights that the network does not have, or that are missing.
    """
    state = strip_module_prefix(state)
    keys = _resnet_keys(state) if 'layer1.0.conv1.weight' in state else _vgg_keys(state)
    return rename(state, keys, 'a ResNet (conv1, layer1 to layer4, fc) or VGG (features, classifier) of torchvision')


def _resnet_keys(state: Dict[str, Tensor]) -> Dict[str, str]:
    blocks = [count_blocks(state, f'layer{layer}.') for layer in range(1, 5)]
    convs = [('backbone.conv1', 'backbone.bn1')]
    convs += [names[1:] for names in resnet_convs(blocks, bottleneck='layer1.0.conv3.weight' in state)]
    ours = [f'{conv}.weight' for conv, _ in convs] + [f'{bn}.{name}' for _, bn in convs for name in BN]
    # mmpretrain's names are torchvision's.
    keys = {key[len('backbone.'):]: key for key in ours}
    return {**keys, **{f'fc.{name}': f'head.fc.{name}' for name in ('weight', 'bias')}}


def _vgg_keys(state: Dict[str, Tensor]) -> Dict[str, str]:
    places = sorted(int(match[1]) for key, value in state.items()
                    if (match := re.fullmatch(r'features\.(\d+)\.weight', key)) and value.dim() == 4)
    has_bn = any(key.endswith('running_mean') for key in state)
    # In torchvision a convolution, its BN and its ReLU have a place each, in mmpretrain they share one.
    shared = 2 if has_bn else 1
    keys = {}
    for index, place in enumerate(places or [0]):
        ours = f'backbone.features.{place - shared * index}'
        keys.update({f'features.{place}.{name}': f'{ours}.conv.{name}' for name in ('weight', 'bias')})
        if has_bn:
            keys.update({f'features.{place + 1}.{name}': f'{ours}.bn.{name}' for name in BN})
    for place in (0, 3, 6):
        for name in ('weight', 'bias'):
            keys[f'classifier.{place}.{name}'] = f'backbone.classifier.{place}.{name}'
    return keys
