import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from backbone_checks import (
    assert_follows_the_seed,
    assert_initialised_bn,
    assert_normal,
    assert_same,
    assert_uniform_bn_weights,
    lively,
    tensors,
)

from mmat.errors import ConfigError
from mmat.models import WideResNet
from mmat.models.taps import find_layer, tap
from mmat.registry import MODELS

# The authors' counts, including the classifier of ten classes.
COUNTS = [(16, 1, 175066), (16, 2, 691674), (40, 1, 563930), (40, 2, 2243546)]


@pytest.mark.parametrize('depth, widen_factor, expected', COUNTS)
def test_parameter_count(depth, widen_factor, expected):
    backbone = WideResNet(depth, widen_factor)
    classifier = 64 * widen_factor * 10 + 10
    assert sum(p.numel() for p in backbone.parameters()) + classifier == expected


@pytest.mark.parametrize('depth, widen_factor', [(10, 1), (16, 1), (16, 2), (40, 1)])
def test_parameter_names_are_the_authors(depth, widen_factor):
    names = ['conv0']
    for group in range(3):
        for block in range((depth - 4) // 6):
            base = f'group{group}.block{block}'
            names += [f'{base}.conv0', f'{base}.conv1', f'{base}.bn0', f'{base}.bn1']
            # Only where the width changes: never in the first group of a network of width 1.
            if block == 0 and (group > 0 or widen_factor > 1):
                names.append(f'{base}.convdim')
    names.append('bn')
    found = {name.rpartition('.')[0] for name, _ in WideResNet(depth, widen_factor).named_parameters()}
    assert found == set(names)


@pytest.mark.parametrize('widen_factor', [1, 2])
@pytest.mark.parametrize('size', [32, 16])
def test_shapes_of_taps_and_outputs(widen_factor, size):
    model = WideResNet(10, widen_factor, out_indices=(0, 1, 2)).eval()
    paths = ['group0', 'group1', 'group2']
    with torch.no_grad(), tap(model, paths) as taps:
        outs = model(torch.randn(2, 3, size, size))
    shapes = [(2, 16 * 2**i * widen_factor, size // 2**i, size // 2**i) for i in range(3)]
    assert [tuple(taps[path].shape) for path in paths] == shapes
    assert [tuple(out.shape) for out in outs] == shapes


def test_stages_are_the_groups():
    model = nn.Module()
    model.backbone = WideResNet(10)
    assert [find_layer(model, i) for i in range(3)] == ['backbone.group0', 'backbone.group1', 'backbone.group2']


# Reference implementation of the authors' network over a dictionary of tensors.

def batch_norm(x, params, base, training):
    return F.batch_norm(x, params[f'{base}.running_mean'], params[f'{base}.running_var'], params[f'{base}.weight'],
                        params[f'{base}.bias'], training)


def block(x, params, base, training, stride):
    o1 = F.relu(batch_norm(x, params, f'{base}.bn0', training))
    y = F.conv2d(o1, params[f'{base}.conv0'], stride=stride, padding=1)
    o2 = F.relu(batch_norm(y, params, f'{base}.bn1', training))
    z = F.conv2d(o2, params[f'{base}.conv1'], stride=1, padding=1)
    if f'{base}.convdim' in params:
        return z + F.conv2d(o1, params[f'{base}.convdim'], stride=stride)
    return z + x


def authors_network(x, params, blocks, training):
    x = F.conv2d(x, params['conv0'], padding=1)
    groups = []
    for group, stride in enumerate([1, 2, 2]):
        for b in range(blocks):
            x = block(x, params, f'group{group}.block{b}', training, stride if b == 0 else 1)
        groups.append(x)
    return groups, F.relu(batch_norm(x, params, 'bn', training))


def authors_params(model, requires_grad=False):
    """A copy of the weights under the authors' keys: convolutions without `.weight`."""
    return {
        key.removesuffix('.weight') if value.dim() == 4 else key: value
        for key, value in tensors(model, requires_grad).items()
    }


@pytest.mark.parametrize('depth, widen_factor', [(10, 1), (16, 1), (16, 2), (22, 1)])
@pytest.mark.parametrize('training', [False, True])
def test_equals_the_authors_network(depth, widen_factor, training):
    model = lively(WideResNet(depth, widen_factor, out_indices=(0, 1, 2))).double().train(training)
    params = authors_params(model)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    expected_groups, expected = authors_network(x, params, (depth - 4) // 6, training)
    paths = ['group0', 'group1', 'group2']
    with tap(model, paths) as taps:
        outs = model(x)
    for path, group in zip(paths, expected_groups):
        # Raw, before BN and ReLU: taps are negative in places.
        assert group.min() < 0
        torch.testing.assert_close(taps[path], group, rtol=1e-9, atol=1e-9)
    for out, group in zip(outs[:2], expected_groups):
        torch.testing.assert_close(out, group, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(outs[2], expected, rtol=1e-9, atol=1e-9)
    # In training both update the running statistics, with the same momentum.
    assert_same(authors_params(model), params, rtol=1e-9)


def test_gradients_equal_the_authors():
    model = lively(WideResNet(10, 2)).double().train()
    params = authors_params(model, requires_grad=True)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model(x)[-1].square().sum().backward()
    authors_network(x, params, 1, True)[1].square().sum().backward()
    for name, parameter in model.named_parameters():
        key = name.removesuffix('.weight') if parameter.dim() == 4 else name
        torch.testing.assert_close(parameter.grad, params[key].grad, rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize('out_indices, channels', [((2, ), [64]), ((0, ), [16]), ((2, 0), [16, 64]), ([1], [32])])
def test_out_indices(out_indices, channels):
    outs = WideResNet(10, out_indices=out_indices)(torch.randn(2, 3, 8, 8))
    assert isinstance(outs, tuple)
    assert [out.shape[1] for out in outs] == channels


def test_in_channels():
    out, = WideResNet(10, in_channels=1)(torch.randn(2, 1, 8, 8))
    assert out.shape == (2, 64, 2, 2)


def test_initialisation_is_the_authors():
    torch.manual_seed(0)
    model = WideResNet(16, 4)
    model.init_weights()
    weights = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            assert_normal(module.weight, math.sqrt(2 / fan_in), name)
        elif isinstance(module, nn.BatchNorm2d):
            assert_initialised_bn(module, name)
            assert module.weight.std() > 0.1
            weights.append(module.weight.detach())
    assert_uniform_bn_weights(weights)


def test_initialisation_follows_the_seed():
    assert_follows_the_seed(lambda: WideResNet(10), 'conv0.weight')


def test_builds_from_a_config():
    backbone = MODELS.build(dict(type='mmat.WideResNet', depth=16, widen_factor=2))
    assert isinstance(backbone, WideResNet)
    assert len(backbone.group2) == 2


@pytest.mark.parametrize('options, message', [
    (dict(depth=15), r'depth of WideResNet.*6n \+ 4.*got 15\b.*nearest is 16\b'),
    (dict(depth=41), r'got 41\b.*nearest is 40\b'),
    # 6 * 0 + 4 layers are no network.
    (dict(depth=4), r'got 4\b.*nearest is 10\b'),
    (dict(depth=-2), r'got -2\b.*nearest is 10\b'),
    (dict(depth=16, widen_factor=0), r'widen_factor of WideResNet.*\b1\b.*\b0\b'),
    (dict(depth=16, out_indices=(0, 3)), r'out_indices .*0, 1, 2.*\(0, 3\)'),
    (dict(depth=16, out_indices=(-1, )), r'out_indices .*\(-1,\)'),
    (dict(depth=16, out_indices=()), r'out_indices .*\(\)'),
])
def test_refuses_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        WideResNet(**options)
