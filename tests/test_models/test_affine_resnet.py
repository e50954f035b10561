import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from backbone_checks import assert_follows_the_seed, assert_normal, tensors

from mmat.errors import ConfigError
from mmat.models import AffineResNet, build_network
from mmat.models.taps import find_layer, tap
from mmat.registry import MODELS

GROUPS = ['group0', 'group1', 'group2', 'group3']
# The parameters of resnet-18-at-export, including its classifier of 1000 classes.
COUNT = 11687720


def affine_names(blocks):
    names = [f'group{group}.block{block}.affine{index}' for group, count in enumerate(blocks) for block in range(count)
             for index in (0, 1)]
    names.remove('group0.block0.affine0')
    return ['affine0', *names, 'affine_last']


def random_model(depth=18, out_indices=(0, 1, 2, 3)):
    torch.manual_seed(0)
    model = AffineResNet(depth, base_channels=4, out_indices=out_indices)
    model.init_weights()
    for name, parameter in model.named_parameters():
        if name.endswith(('.a', '.b')):
            nn.init.normal_(parameter, mean=name.endswith('.a'))
    return model.double()


def reference(params, x, blocks):
    """The network over a dictionary of tensors: the outputs of the groups, and what the classifier sees."""

    def activate(x, name):
        return F.relu(x * params[f'{name}.a'].view(1, -1, 1, 1) + params[f'{name}.b'].view(1, -1, 1, 1))

    x = F.max_pool2d(activate(F.conv2d(x, params['conv0.weight'], None, 2, 3), 'affine0'), 3, 2, 1)
    groups = []
    for group, count in enumerate(blocks):
        for block in range(count):
            base, stride = f'group{group}.block{block}', 2 if group > 0 and block == 0 else 1
            start = activate(x, f'{base}.affine0') if (group, block) != (0, 0) else x
            out = activate(F.conv2d(start, params[f'{base}.conv0.weight'], None, stride, 1), f'{base}.affine1')
            out = F.conv2d(out, params[f'{base}.conv1.weight'], None, 1, 1)
            if f'{base}.conv_dim.weight' in params:
                x = out + F.conv2d(start, params[f'{base}.conv_dim.weight'], None, stride)
            else:
                x = out + x
        groups.append(x)
    return groups, activate(x, 'affine_last')


def test_parameter_count():
    with torch.device('meta'):
        backbone = AffineResNet()
    assert sum(parameter.numel() for parameter in backbone.parameters()) + 512 * 1000 + 1000 == COUNT
    assert not list(backbone.buffers())


@pytest.mark.parametrize('depth, blocks', [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_parameter_names_are_the_authors(depth, blocks):
    names = {f'{name}.{part}' for name in affine_names(blocks) for part in 'ab'} | {'conv0.weight'}
    names |= {f'group{group}.block{block}.conv{index}.weight' for group, count in enumerate(blocks)
              for block in range(count) for index in (0, 1)}
    names |= {f'group{group}.block0.conv_dim.weight' for group in (1, 2, 3)}
    assert {name for name, _ in AffineResNet(depth, base_channels=2).named_parameters()} == names


@pytest.mark.parametrize('depth, blocks', [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_equals_the_network_and_its_gradients(depth, blocks):
    model = random_model(depth)
    params = tensors(model, requires_grad=True)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    groups, last = reference(params, x, blocks)
    with tap(model, GROUPS) as taps:
        outs = model(x)
    for path, group in zip(GROUPS, groups):
        # Raw, before affine and ReLU: taps are negative in places.
        assert group.min() < 0
        torch.testing.assert_close(taps[path], group, rtol=1e-9, atol=1e-9)
    for out, expected in zip(outs, [*groups[:3], last]):
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)

    # Gradients from the taps too, as in attention transfer.
    (sum(taps[path].square().mean() for path in GROUPS) + outs[-1].sum()).backward()
    (sum(group.square().mean() for group in groups) + last.sum()).backward()
    for name, parameter in model.named_parameters():
        expected = params[name].grad
        assert expected.abs().max() > 0
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize('size', [64, 96])
def test_shapes_of_outputs(size):
    outs = AffineResNet(base_channels=4, out_indices=(0, 1, 2, 3))(torch.randn(2, 3, size, size))
    assert [tuple(out.shape) for out in outs] == [(2, 4 * 2**i, size // 4 // 2**i, size // 4 // 2**i) for i in range(4)]


@pytest.mark.parametrize('out_indices, channels', [((3, ), [32]), ((0, ), [4]), ((3, 1), [8, 32]), ([2], [16])])
def test_out_indices(out_indices, channels):
    outs = AffineResNet(base_channels=4, out_indices=out_indices)(torch.randn(1, 3, 32, 32))
    assert isinstance(outs, tuple)
    assert [out.shape[1] for out in outs] == channels


def test_stages_are_the_groups():
    model = nn.Module()
    model.backbone = AffineResNet(base_channels=2)
    assert [find_layer(model, i) for i in range(4)] == [f'backbone.{group}' for group in GROUPS]


def test_in_channels():
    out, = AffineResNet(base_channels=2, in_channels=1)(torch.randn(1, 1, 32, 32))
    assert out.shape == (1, 16, 1, 1)


def test_initialisation():
    torch.manual_seed(0)
    model = AffineResNet(base_channels=32)
    model.init_weights()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            assert_normal(module.weight, math.sqrt(2 / module.weight[0].numel()), name)
    # Affine layers start as the identity.
    for name in affine_names((2, 2, 2, 2)):
        affine = model.get_submodule(name)
        assert (affine.a == 1).all() and (affine.b == 0).all(), name


def test_initialisation_follows_the_seed():
    assert_follows_the_seed(lambda: AffineResNet(base_channels=2), 'conv0.weight')


def test_it_trains():
    torch.manual_seed(0)
    network = build_network(dict(
        type='mmpretrain.ImageClassifier', backbone=dict(type='mmat.AffineResNet', base_channels=4),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmat.LinearClsHead', num_classes=2, in_channels=32)))
    network.init_weights()
    images, labels = torch.randn(8, 3, 32, 32), torch.tensor([0, 1] * 4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(30):
        losses.append(F.cross_entropy(network(images), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 10
    affine = network.backbone.group1.block0.affine0
    assert (affine.a != 1).any() and (affine.b != 0).any()


def test_builds_from_a_config():
    backbone = MODELS.build(dict(type='mmat.AffineResNet', depth=34, base_channels=2))
    assert [len(getattr(backbone, group)) for group in GROUPS] == [3, 4, 6, 3]


@pytest.mark.parametrize('options, message', [
    (dict(depth=50), r'depth of AffineResNet.*\b18\b.*\b34\b.*\b50\b'),
    (dict(base_channels=0), r'base_channels of AffineResNet.*\b1\b.*\b0\b'),
    (dict(out_indices=(0, 4)), r'out_indices .*0, 1, 2, 3.*\(0, 4\)'),
    (dict(out_indices=(-1, )), r'out_indices .*\(-1,\)'),
    (dict(out_indices=()), r'out_indices .*\(\)'),
    (dict(out_indices=3), r'out_indices .*0, 1, 2, 3,.*\b3\b'),
])
def test_refuses_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        AffineResNet(**options)
