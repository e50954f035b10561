import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from backbone_checks import (
    assert_classifies,
    assert_follows_the_seed,
    assert_normal,
    assert_same,
    close,
    lively,
    tensors,
)

from mmat.errors import ConfigError, LayerError
from mmat.models import CIFARResNet
from mmat.models.taps import find_layer, tap
from mmat.registry import MODELS

STAGES = ['layer1', 'layer2', 'layer3']
# Distinct widths where possible. The last one has no shortcut in its first stage.
SMALL = [dict(depth=8, stem_channels=5, base_channels=4), dict(depth=14, stem_channels=3, base_channels=6),
         dict(depth=20, stem_channels=4, base_channels=4)]

every_small = pytest.mark.parametrize('options', SMALL, ids=lambda options: str(options['depth']))


def count_by_hand(blocks, stem, width, classes):
    """Weights of convolutions, two parameters of BN a channel, and the classifier."""
    total = 3 * 3 * 3 * stem + 2 * stem
    channels = stem
    for index in range(3):
        for block in range(blocks):
            total += 9 * channels * width + 2 * width + 9 * width * width + 2 * width
            if block == 0 and (index > 0 or channels != width):
                total += channels * width + 2 * width
            channels = width
        width *= 2
    return total + channels * classes + classes


# Exact counts of the published sizes for 100 classes: 0.28M, 0.47M, 0.86M, 1.74M, 1.23M and 7.43M.
@pytest.mark.parametrize('depth, stem, width, expected', [
    (20, 16, 16, 278324), (32, 16, 16, 472756), (56, 16, 16, 861620), (110, 16, 16, 1736564), (8, 32, 64, 1233540),
    (32, 32, 64, 7433860),
])
def test_parameter_count(depth, stem, width, expected):
    backbone = CIFARResNet(depth, stem, width)
    assert count_by_hand((depth - 2) // 6, stem, width, 100) == expected
    classifier = 4 * width * 100 + 100
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) + classifier == expected


def test_the_widths_of_resnet20_are_the_default():
    torch.manual_seed(0)
    default = CIFARResNet(20)
    torch.manual_seed(0)
    assert repr(default) == repr(CIFARResNet(20, 16, 16, (2, )))


@every_small
def test_weights_and_their_names(options):
    channels, width = options['stem_channels'], options['base_channels']
    expected = {'conv1.weight': (channels, 3, 3, 3), 'bn1.weight': (channels, ), 'bn1.bias': (channels, )}
    for stage in STAGES:
        for index in range((options['depth'] - 2) // 6):
            base = f'{stage}.{index}'
            expected[f'{base}.conv1.weight'] = (width, channels, 3, 3)
            expected[f'{base}.conv2.weight'] = (width, width, 3, 3)
            norms = ['bn1', 'bn2']
            if index == 0 and (stage != 'layer1' or channels != width):
                expected[f'{base}.downsample.0.weight'] = (width, channels, 1, 1)
                norms.append('downsample.1')
            for norm in norms:
                expected[f'{base}.{norm}.weight'] = expected[f'{base}.{norm}.bias'] = (width, )
            channels = width
        width *= 2
    assert {name: tuple(p.shape) for name, p in CIFARResNet(**options).named_parameters()} == expected


# Reference implementation over a dictionary of tensors, from the published layer plan.

def batch_norm(x, params, base, training):
    return F.batch_norm(x, params[f'{base}.running_mean'], params[f'{base}.running_var'], params[f'{base}.weight'],
                        params[f'{base}.bias'], training, 0.1, 1e-5)


def oracle(x, params, blocks, training):
    x = F.relu(batch_norm(F.conv2d(x, params['conv1.weight'], padding=1), params, 'bn1', training))
    stages = []
    for stage in STAGES:
        for index in range(blocks):
            base, stride = f'{stage}.{index}', 2 if index == 0 and stage != 'layer1' else 1
            out = F.conv2d(x, params[f'{base}.conv1.weight'], stride=stride, padding=1)
            out = F.relu(batch_norm(out, params, f'{base}.bn1', training))
            out = batch_norm(F.conv2d(out, params[f'{base}.conv2.weight'], padding=1), params, f'{base}.bn2', training)
            if stride != 1 or x.shape[1] != out.shape[1]:
                x = F.conv2d(x, params[f'{base}.downsample.0.weight'], stride=stride)
                x = batch_norm(x, params, f'{base}.downsample.1', training)
            x = F.relu(out + x)
        stages.append(x)
    return stages


@every_small
@pytest.mark.parametrize('training', [False, True])
def test_equals_the_published_network(options, training):
    model = lively(CIFARResNet(**options, out_indices=(0, 1, 2))).double().train(training)
    params = tensors(model)
    x = torch.randn(3, 3, 16, 12, dtype=torch.float64)
    expected = oracle(x, params, (options['depth'] - 2) // 6, training)
    with tap(model, STAGES) as taps:
        outs = model(x)
    assert isinstance(outs, tuple) and len(outs) == 3
    for index, (path, out, stage) in enumerate(zip(STAGES, outs, expected)):
        assert stage.shape == (3, options['base_channels'] * 2**index, 16 // 2**index, 12 // 2**index)
        # After the last ReLU.
        assert stage.min() == 0 < stage.max()
        close(taps[path], stage)
        close(out, stage)
    # In training both update the running statistics, with the same momentum.
    assert_same(tensors(model), params)


@every_small
@pytest.mark.parametrize('training', [False, True])
def test_gradients_equal_the_published_networks(options, training):
    model = lively(CIFARResNet(**options)).double().train(training)
    params = tensors(model, requires_grad=True)
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    target = torch.randn(3, 4 * options['base_channels'], 3, 3, dtype=torch.float64)
    (model(x)[-1] * target).sum().backward()
    (oracle(x, params, (options['depth'] - 2) // 6, training)[-1] * target).sum().backward()
    for name, parameter in model.named_parameters():
        close(parameter.grad, params[name].grad, msg=name)


# Taps

def test_stages_are_the_layers():
    model = nn.Module()
    model.backbone = CIFARResNet(8)
    expected = [f'backbone.{stage}' for stage in STAGES]
    assert [find_layer(model, i) for i in range(3)] == expected
    assert [find_layer(model, i) for i in range(-3, 0)] == expected
    with pytest.raises(LayerError, match=r'\b3\b.*CIFARResNet'):
        find_layer(model, 3)


def test_shapes_of_resnet8x4_on_a_cifar_image():
    model = CIFARResNet(8, 32, 64, out_indices=(0, 1, 2)).eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, 32, 32))
    assert [tuple(out.shape) for out in outs] == [(1, 64, 32, 32), (1, 128, 16, 16), (1, 256, 8, 8)]


@pytest.mark.parametrize('out_indices, channels', [((2, ), [16]), ((0, ), [4]), ((0, 2), [4, 16]), ([1], [8])])
def test_out_indices(out_indices, channels):
    outs = CIFARResNet(8, 4, 4, out_indices)(torch.randn(2, 3, 8, 8))
    assert isinstance(outs, tuple)
    assert [out.shape[1] for out in outs] == channels


def test_networks_of_different_depth_do_not_share_theirs():
    deep, shallow = CIFARResNet(20, 4, 4), CIFARResNet(8, 4, 4)
    assert [len(getattr(deep, stage)) for stage in STAGES] == [3, 3, 3]
    assert [len(getattr(shallow, stage)) for stage in STAGES] == [1, 1, 1]
    # mmpretrain's networks are unchanged.
    with pytest.raises(KeyError, match='invalid depth 20'):
        MODELS.build(dict(type='mmpretrain.ResNet_CIFAR', depth=20))


# Initialisation

def test_initialisation_is_the_benchmarks():
    torch.manual_seed(0)
    model = CIFARResNet(14, 32, 64)
    model.init_weights()
    norms = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert_normal(module.weight, math.sqrt(2 / fan_out), name)
        elif isinstance(module, nn.BatchNorm2d):
            # Including those before an addition.
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
            norms += 1
    assert norms == 1 + 3 * 4 + 3


def test_initialisation_follows_the_seed():
    assert_follows_the_seed(lambda: CIFARResNet(8, 4, 4), 'conv1.weight')


# Configs

@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmat'])
def test_classifier(scope):
    assert_classifies(scope, 3, 16, type='mmat.CIFARResNet', depth=8, stem_channels=5, base_channels=4)


def test_options_of_mmpretrain_are_passed_on():
    model = CIFARResNet(8, 4, 4, in_channels=1, norm_eval=True, frozen_stages=1, zero_init_residual=True).train()
    model.init_weights()
    assert model(torch.randn(2, 1, 8, 8))[0].shape == (2, 16, 2, 2)
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert not any(parameter.requires_grad for parameter in model.layer1.parameters())
    assert (model.layer3[0].bn2.weight == 0).all()


@pytest.mark.parametrize('options, message', [
    (dict(depth=18), r'depth of CIFARResNet.*6n \+ 2.*got 18\b.*nearest is 20\b'),
    (dict(depth=9), r'got 9\b.*nearest is 8\b'),
    # 6 * 0 + 2 layers are no network.
    (dict(depth=2), r'got 2\b.*nearest is 8\b'),
    (dict(depth=-4), r'got -4\b.*nearest is 8\b'),
    (dict(depth='20'), "got '20'"),
    (dict(depth=20.), r'got 20\.0\b.*nearest is 20\b'),
    (dict(depth=8, stem_channels=0), r'stem_channels of CIFARResNet.*\b1\b.*\b0\b'),
    (dict(depth=8, base_channels=1.5), r'base_channels of CIFARResNet.*1\.5'),
    (dict(depth=8, out_indices=(0, 3)), r'out_indices .*0, 1, 2.*\(0, 3\)'),
    (dict(depth=8, out_indices=(-1, )), r'out_indices .*\(-1,\)'),
    (dict(depth=8, out_indices=()), r'out_indices .*\(\)'),
    (dict(depth=8, out_indices=2), r'out_indices .*0, 1, 2,.*\b2\b'),
])
def test_refuses_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        CIFARResNet(**options)
