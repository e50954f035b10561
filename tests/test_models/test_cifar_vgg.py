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

from mmat.errors import ConfigError, LayerError, UserError
from mmat.models import CIFARVGG
from mmat.models.taps import find_layer, tap

# Widths of the convolutions of each block, written out, not read from the package.
PLANS = {
    8: [[64], [128], [256], [512], [512]],
    11: [[64], [128], [256, 256], [512, 512], [512, 512]],
    13: [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]],
    16: [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]],
    19: [[64, 64], [128, 128], [256, 256, 256, 256], [512, 512, 512, 512], [512, 512, 512, 512]],
}
BLOCKS = [f'block{index}' for index in range(5)]
ALL = (0, 1, 2, 3, 4)


def test_the_depth_counts_convolutions_and_three_linear_layers():
    assert {sum(map(len, plan)) + 3: plan for plan in PLANS.values()} == PLANS


# Exact counts of the benchmark's pair, 3.97M and 9.46M.
@pytest.mark.parametrize('depth, expected', [(8, 3965028), (13, 9462180)])
def test_parameter_count(depth, expected):
    channels, total = 3, 0
    for width in sum(PLANS[depth], []):
        # A convolution has a bias, BN two parameters a channel.
        total += 9 * channels * width + width + 2 * width
        channels = width
    classifier = 512 * 100 + 100
    assert total + classifier == expected
    assert sum(p.numel() for p in CIFARVGG(depth).parameters() if p.requires_grad) + classifier == expected


@pytest.mark.parametrize('depth', PLANS)
def test_weights_and_their_names(depth):
    expected, channels = {}, 3
    for name, widths in zip(BLOCKS, PLANS[depth]):
        for index, width in enumerate(widths):
            base = f'{name}.conv{index}'
            expected[f'{base}.conv.weight'] = (width, channels, 3, 3)
            expected |= dict.fromkeys([f'{base}.conv.bias', f'{base}.bn.weight', f'{base}.bn.bias'], (width, ))
            channels = width
    with torch.device('meta'):
        model = CIFARVGG(depth)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == expected


# Reference implementation over a dictionary of tensors, from the published layer plan.

def oracle(x, params, plan, training):
    pools = 4 if x.shape[2] == 64 else 3
    blocks = []
    for number, (name, widths) in enumerate(zip(BLOCKS, plan)):
        for index in range(len(widths)):
            base = f'{name}.conv{index}'
            x = F.conv2d(x, params[f'{base}.conv.weight'], params[f'{base}.conv.bias'], padding=1)
            x = F.batch_norm(x, params[f'{base}.bn.running_mean'], params[f'{base}.bn.running_var'],
                             params[f'{base}.bn.weight'], params[f'{base}.bn.bias'], training, 0.1, 1e-5)
            x = F.relu(x)
        blocks.append(x)
        if number < pools:
            x = F.max_pool2d(x, 2, 2)
    return blocks


@pytest.mark.parametrize('depth, size', [(8, (16, 8)), (8, (64, 64)), (13, (8, 9))])
@pytest.mark.parametrize('training', [False, True])
def test_equals_the_published_network(depth, size, training):
    model = lively(CIFARVGG(depth, out_indices=ALL)).double().train(training)
    params = tensors(model)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = oracle(x, params, PLANS[depth], training)
        with tap(model, BLOCKS) as taps:
            outs = model(x)
    assert isinstance(outs, tuple) and len(outs) == 5
    for path, out, block in zip(BLOCKS, outs, expected):
        # After ReLU.
        assert block.min() == 0 < block.max()
        close(taps[path], block)
        close(out, block)
    # In training both update the running statistics, with the same momentum.
    assert_same(tensors(model), params)


@pytest.mark.parametrize('training', [False, True])
def test_gradients_equal_the_published_networks(training):
    model = lively(CIFARVGG(8)).double().train(training)
    params = tensors(model, requires_grad=True)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    target = torch.randn(2, 512, 2, 2, dtype=torch.float64)
    (model(x)[-1] * target).sum().backward()
    (oracle(x, params, PLANS[8], training)[-1] * target).sum().backward()
    for name, parameter in model.named_parameters():
        # A bias before BN has no effect in training; its gradient is rounding.
        if not training or not name.endswith('conv.bias'):
            assert parameter.grad.abs().max() > 1e-6, name
        close(parameter.grad, params[name].grad, msg=name)


# Sizes by hand: three poolings below 64 pixels, four from there.
@pytest.mark.parametrize('size, sizes', [
    (32, [32, 16, 8, 4, 4]), (8, [8, 4, 2, 1, 1]), (63, [63, 31, 15, 7, 7]), (64, [64, 32, 16, 8, 4]),
    (65, [65, 32, 16, 8, 4]),
])
def test_shapes_of_taps_and_outputs(size, sizes):
    with torch.device('meta'):
        model = CIFARVGG(8, out_indices=ALL)
        x = torch.zeros(2, 3, size, size)
    with tap(model, BLOCKS) as taps:
        outs = model(x)
    shapes = [(2, width, side, side) for width, side in zip((64, 128, 256, 512, 512), sizes)]
    assert [tuple(taps[path].shape) for path in BLOCKS] == shapes
    assert [tuple(out.shape) for out in outs] == shapes


def test_stages_are_the_blocks():
    model = nn.Module()
    model.backbone = CIFARVGG(8)
    expected = [f'backbone.{block}' for block in BLOCKS]
    assert [find_layer(model, i) for i in range(5)] == expected
    assert [find_layer(model, i) for i in range(-5, 0)] == expected
    with pytest.raises(LayerError, match=r'\b5\b.*CIFARVGG'):
        find_layer(model, 5)


@pytest.mark.parametrize('out_indices, channels', [((4, ), [512]), ((0, ), [64]), ((3, 1), [128, 512]), ([2], [256])])
def test_out_indices(out_indices, channels):
    with torch.device('meta'):
        outs = CIFARVGG(8, out_indices=out_indices)(torch.zeros(2, 3, 8, 8))
    assert isinstance(outs, tuple)
    assert [out.shape[1] for out in outs] == channels


def test_in_channels():
    with torch.device('meta'):
        out, = CIFARVGG(8, in_channels=1)(torch.zeros(2, 1, 8, 8))
    assert out.shape == (2, 512, 1, 1)


# Initialisation

def test_initialisation_is_the_benchmarks():
    torch.manual_seed(0)
    model = CIFARVGG(11)
    model.init_weights()
    norms = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert_normal(module.weight, math.sqrt(2 / (9 * module.out_channels)), name)
            assert (module.bias == 0).all(), name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
            norms += 1
    assert norms == 8


def test_initialisation_follows_the_seed():
    assert_follows_the_seed(lambda: CIFARVGG(8), 'block0.conv0.conv.weight')


# Configs

@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmat'])
def test_classifier(scope):
    # Convolutions have a bias though BN follows.
    assert_classifies(scope, 5, 512, silent=['conv.bias'], type='mmat.CIFARVGG', depth=8)


@pytest.mark.parametrize('options, message', [
    (dict(depth=10), r'depth of CIFARVGG.*\(8, 11, 13, 16, 19\).*got 10\b.*nearest is 11\b'),
    (dict(depth=18), r'got 18\b.*nearest is 19\b'),
    (dict(depth='vgg13'), "got 'vgg13'"),
    (dict(depth=[8]), r'got \[8\]'),
    (dict(depth=8.), r'got 8\.0\b.*nearest is 8\b'),
    (dict(depth=8, in_channels=0), r'in_channels of CIFARVGG.*\b1\b.*\b0\b'),
    (dict(depth=8, out_indices=(0, 5)), r'out_indices .*0, 1, 2, 3, 4.*\(0, 5\)'),
    (dict(depth=8, out_indices=(-1, )), r'out_indices .*\(-1,\)'),
    (dict(depth=8, out_indices=()), r'out_indices .*\(\)'),
    (dict(depth=8, out_indices=4), r'out_indices .*0, 1, 2, 3, 4,.*\b4\b'),
])
def test_refuses_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message), torch.device('meta'):
        CIFARVGG(**options)


@pytest.mark.parametrize('size', [(7, 7), (32, 4)])
def test_images_that_are_too_small_are_refused(size):
    with torch.device('meta'), pytest.raises(UserError, match=r'CIFARVGG.*\b8\b.*\({}, {}\)'.format(*size)):
        CIFARVGG(8)(torch.zeros(2, 3, *size))
