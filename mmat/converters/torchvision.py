"""Converter for torchvision's ResNet and VGG."""
import re
from typing import Dict

from torch import Tensor

from mmat.utils.checkpoint import strip_module_prefix

from .renaming import BN, count_blocks, rename
from .resnet import resnet_convs


def convert_torchvision(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename weights of torchvision's ResNet, wide ResNet and VGG (with or without BN) for mmpretrain.

    Args:
        state (dict): State dict, with or without the prefix ``module.`` of training on several GPUs.

    Returns:
        dict: State dict of the network that the config builds. A VGG's classifier is part of its backbone.

    Raises:
        CheckpointError: The weights are not those of such a network.
    """
    state = strip_module_prefix(state)
    keys = _resnet_keys(state) if 'layer1.0.conv1.weight' in state else _vgg_keys(state)
    return rename(state, keys, 'a ResNet (conv1, layer1 to layer4, fc) or VGG (features, classifier) of torchvision')


def _resnet_keys(state: Dict[str, Tensor]) -> Dict[str, str]:
    blocks = [count_blocks(state, f'layer{layer}.') for layer in range(1, 5)]
    convs = [('backbone.conv1', 'backbone.bn1')]
    convs += [names[1:] for names in resnet_convs(blocks, bottleneck='layer1.0.conv3.weight' in state)]
    targets = [f'{conv}.weight' for conv, _ in convs] + [f'{bn}.{name}' for _, bn in convs for name in BN]
    # Inside the backbone, mmpretrain uses torchvision's names.
    keys = {key[len('backbone.'):]: key for key in targets}
    return {**keys, **{f'fc.{name}': f'head.fc.{name}' for name in ('weight', 'bias')}}


def _vgg_keys(state: Dict[str, Tensor]) -> Dict[str, str]:
    indices = sorted(int(match[1]) for key, value in state.items()
                     if (match := re.fullmatch(r'features\.(\d+)\.weight', key)) and value.dim() == 4)
    has_bn = any(key.endswith('running_mean') for key in state)
    # torchvision numbers a convolution, its BN and its ReLU separately; in mmpretrain they are one module.
    merged = 2 if has_bn else 1
    keys = {}
    for count, index in enumerate(indices or [0]):
        target = f'backbone.features.{index - merged * count}'
        keys.update({f'features.{index}.{name}': f'{target}.conv.{name}' for name in ('weight', 'bias')})
        if has_bn:
            keys.update({f'features.{index + 1}.{name}': f'{target}.bn.{name}' for name in BN})
    for index in (0, 3, 6):
        for name in ('weight', 'bias'):
            keys[f'classifier.{index}.{name}'] = f'backbone.classifier.{index}.{name}'
    return keys
