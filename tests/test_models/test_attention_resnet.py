import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from backbone_checks import (
    assert_double_backward,
    assert_follows_the_seed,
    assert_gradients,
    assert_initialised_bn,
    assert_normal,
    assert_same,
    assert_same_values,
    authors_backward,
    close,
    dropout,
    initialised_sync_norms,
    is_uniform,
    lively,
    tensors,
)
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope

from mmat.errors import ConfigError, LayerError
from mmat.models import AttentionResNet
from mmat.models.taps import find_layer, tap
from mmat.registry import MODELS

STAGES = ['stage0', 'stage1', 'stage2']
BRANCHES = ['conv', 'pool']

every_branch = pytest.mark.parametrize('branch', BRANCHES)


# Parameters of depth 164, 18 blocks a stage. The first of a stage has BN, the three convolutions and two BN of a
# bottleneck, and the projection; the other 17 have no projection.
def stage(channels, width, narrow):
    first = 2 * channels + channels * narrow + 9 * narrow * narrow + narrow * width + 4 * narrow + channels * width
    other = 2 * width + width * narrow + 9 * narrow * narrow + narrow * width + 4 * narrow
    return first + 17 * other


TRUNK = 3 * 9 * 16 + stage(16, 64, 16) + stage(64, 128, 32) + stage(128, 256, 64) + 2 * 256
# A convolution with its bias and its BN, and a linear layer.
CONV_BRANCH = 9 * 256 * 256 + 256 + 2 * 256 + 256 * 256 + 256


@pytest.mark.parametrize('options, by_hand, expected', [
    (dict(), TRUNK + CONV_BRANCH, 2357072),
    (dict(global_branch='conv', out_indices=()), TRUNK + CONV_BRANCH, 2357072),
    # With its classifier of ten classes, 2570, the 1.7 million of the ResNet-164 paper.
    (dict(global_branch='pool'), TRUNK, 1700688),
])
def test_parameter_count_of_depth_164(options, by_hand, expected):
    assert by_hand == expected
    # Counted only, so no memory or initialisation is needed.
    with torch.device('meta'):
        model = MODELS.build(dict(type='mmat.AttentionResNet', **options))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_parameter_count_of_the_attention_network():
    # Local features of 128 and 256 channels; g comes to 128 through BN and a linear layer.
    neck = 2 * 256 + 256 * 128 + 128 + 129 + 257
    head = 2 * 384 + 384 * 10 + 10
    with torch.device('meta'):
        parts = [MODELS.build(config) for config in (
            dict(type='mmat.AttentionResNet'),
            dict(type='mmat.SpatialAttentionNeck', in_channels=(128, 256), global_channels=256),
            dict(type='mmat.ConcatClsHead', num_classes=10, in_channels=(128, 256)))]
    assert sum(p.numel() for part in parts for p in part.parameters()) == TRUNK + CONV_BRANCH + neck + head


@pytest.mark.parametrize('depth, blocks', [(11, 1), (20, 2)])
@every_branch
def test_weights_and_their_names(depth, blocks, branch):
    expected, channels = {'conv0.weight': (16, 5, 3, 3)}, 16
    for name, width in zip(STAGES, (64, 128, 256)):
        for b in range(blocks):
            base = f'{name}.block{b}'
            narrow = width // 4
            expected[f'{base}.conv0.weight'] = (narrow, channels, 1, 1)
            expected[f'{base}.conv1.weight'] = (narrow, narrow, 3, 3)
            expected[f'{base}.conv2.weight'] = (width, narrow, 1, 1)
            if b == 0:
                expected[f'{base}.shortcut.weight'] = (width, channels, 1, 1)
            for index, norm in enumerate((channels, narrow, narrow)):
                expected[f'{base}.bn{index}.weight'] = expected[f'{base}.bn{index}.bias'] = (norm, )
            channels = width
    norms = ['bn']
    if branch == 'conv':
        norms += ['descriptor.conv.bn']
        expected.update({'descriptor.conv.conv.weight': (256, 256, 3, 3), 'descriptor.conv.conv.bias': (256, ),
                         'descriptor.fc.weight': (256, 256), 'descriptor.fc.bias': (256, )})
    for norm in norms:
        expected[f'{norm}.weight'] = expected[f'{norm}.bias'] = (256, )
    model = AttentionResNet(depth, global_branch=branch, in_channels=5)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == expected


@every_branch
@pytest.mark.parametrize('size, sizes', [
    ((32, 32), [(32, 32), (16, 16), (8, 8)]),
    ((33, 30), [(33, 30), (17, 15), (9, 8)]),
    # Odd sizes, rounded up by strides and pooling, down to a single pixel.
    ((5, 9), [(5, 9), (3, 5), (2, 3)]),
    ((1, 2), [(1, 2), (1, 1), (1, 1)]),
])
def test_shapes_of_taps_and_outputs(branch, size, sizes):
    model = AttentionResNet(11, (0, 1, 2), branch, in_channels=1).eval()
    with torch.no_grad(), tap(model, STAGES) as taps:
        outs = model(torch.randn(2, 1, *size))
    shapes = [(2, width, *hw) for width, hw in zip((64, 128, 256), sizes)]
    assert [tuple(taps[path].shape) for path in STAGES] == shapes
    assert [tuple(out.shape) for out in outs] == [*shapes, (2, 256)]


def test_the_default():
    with torch.device('meta'):
        model = AttentionResNet()
        outs = model(torch.empty(2, 3, 32, 32))
    assert [len(getattr(model, name)) for name in STAGES] == [18, 18, 18]
    assert [tuple(out.shape) for out in outs] == [(2, 128, 16, 16), (2, 256, 8, 8), (2, 256)]


# Reference implementation over a dictionary of tensors.

def pieces(params, depth, branch, training=False):
    """Four functions: of the image, that makes the first local feature; of each of them, that makes the next or g."""

    def norm_relu(x, base, eps=1e-5):
        return F.relu(F.batch_norm(x, params[f'{base}.running_mean'], params[f'{base}.running_var'],
                                   params[f'{base}.weight'], params[f'{base}.bias'], training, 0.1, eps))

    def run_stage(x, index):
        if index == 0:
            x = F.conv2d(x, params['conv0.weight'], padding=1)
        for b in range((depth - 2) // 9):
            base = f'stage{index}.block{b}'
            stride = 2 if index > 0 and b == 0 else 1
            o = norm_relu(x, f'{base}.bn0')
            z = norm_relu(F.conv2d(o, params[f'{base}.conv0.weight'], stride=stride), f'{base}.bn1')
            z = norm_relu(F.conv2d(z, params[f'{base}.conv1.weight'], padding=1), f'{base}.bn2')
            z = F.conv2d(z, params[f'{base}.conv2.weight'])
            x = z + (F.conv2d(o, params[f'{base}.shortcut.weight'], stride=stride) if b == 0 else x)
        return x

    def descriptor(x):
        x = norm_relu(x, 'bn')
        if branch == 'pool':
            return x.mean((2, 3))
        x = F.max_pool2d(x, 2, ceil_mode=True)
        x = F.conv2d(x, params['descriptor.conv.conv.weight'], params['descriptor.conv.conv.bias'], padding=1)
        x = dropout(norm_relu(x, 'descriptor.conv.bn', 1e-3), 0.4, training)
        x = dropout(x.amax((2, 3)), 0.5, training)
        return F.linear(x, params['descriptor.fc.weight'], params['descriptor.fc.bias'])

    return [*(lambda x, index=index: run_stage(x, index) for index in range(3)), descriptor]


@pytest.mark.parametrize('depth, size', [(11, (32, 32)), (11, (13, 18)), (20, (16, 16))])
@every_branch
@pytest.mark.parametrize('training', [False, True])
def test_equals_the_authors_network(depth, size, branch, training, monkeypatch):
    monkeypatch.setattr(F, 'dropout', dropout)
    model = lively(AttentionResNet(depth, (0, 1, 2), branch), weights=True).double().train(training)
    params = tensors(model)
    x = torch.randn(3, 3, *size, dtype=torch.float64)
    copy = x.clone()
    # Raises if a later layer overwrites them.
    with tap(model, STAGES) as taps:
        outs = model(x)
    assert torch.equal(x, copy)
    assert len(outs) == 4
    for path, out in zip(STAGES, outs):
        # Raw, before BN and ReLU: negative in places.
        assert out.min() < 0
        assert taps[path] is out
    for piece, out in zip(pieces(params, depth, branch, training), outs):
        x = piece(x)
        assert 1e-3 < x.std() < 1e3
        close(out, x)
    # In training both update the running statistics, with the same momentum.
    assert_same(tensors(model), params)


@pytest.mark.parametrize('branch, steady', [('conv', False), ('pool', True)])
def test_dropout_is_off_in_evaluation(branch, steady):
    model = AttentionResNet(11, (), branch)
    x = torch.randn(2, 3, 16, 16)
    torch.manual_seed(0)
    assert torch.equal(model(x)[0], model(x)[0]) == steady
    model.eval()
    assert torch.equal(model(x)[0], model(x)[0])


@pytest.mark.parametrize('out_indices', [(), (0, ), (1, ), (2, ), (1, 2), (0, 1, 2), (2, 0), [1]])
@every_branch
def test_out_indices(out_indices, branch):
    model = AttentionResNet(11, out_indices, branch).eval()
    with torch.no_grad(), tap(model, [*STAGES, 'descriptor']) as taps:
        outs = model(torch.randn(2, 3, 8, 8))
    assert isinstance(outs, tuple) and len(outs) == len(out_indices) + 1
    for out, index in zip(outs, sorted(out_indices)):
        assert out is taps[STAGES[index]]
    assert outs[-1] is taps['descriptor']


def test_stages():
    model = nn.Module()
    model.backbone = AttentionResNet(11)
    assert [find_layer(model, i) for i in range(3)] == ['backbone.stage0', 'backbone.stage1', 'backbone.stage2']
    assert find_layer(model, -1) == 'backbone.stage2'
    with pytest.raises(LayerError, match=r'\b3\b.*AttentionResNet'):
        find_layer(model, 3)


# Gradients

@pytest.mark.parametrize('depth, branch, out_indices', [
    *((11, 'conv', levels) for levels in [(), (0, ), (1, ), (2, ), (1, 2), (0, 1, 2)]),
    (11, 'pool', (1, 2)), (20, 'conv', (1, 2))])
@pytest.mark.parametrize('options, average', [({}, False), (dict(average_gradients=True), True)])
def test_gradients_where_branches_meet(depth, branch, out_indices, options, average):
    model = lively(AttentionResNet(depth, out_indices, branch, **options), weights=True).double().eval()
    params = tensors(model, requires_grad=True)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    expected = authors_backward(pieces(params, depth, branch), x, out_indices, average)
    assert_gradients(model, x, expected, params)


@pytest.mark.parametrize('out_indices', [(1, ), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize('average', [False, True])
def test_double_backward(out_indices, average):
    model = lively(AttentionResNet(11, out_indices, average_gradients=average), weights=True).double().eval()
    params = tensors(model, requires_grad=True)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert_double_backward(model, pieces(params, 11, 'conv'), params, x, out_indices, average)


@pytest.mark.parametrize('out_indices', [(), (2, ), (1, 2), (0, 1, 2)])
def test_averaging_gradients_changes_no_value(out_indices):
    models = [AttentionResNet(11, out_indices, average_gradients=average).eval() for average in (False, True)]
    assert_same_values(models, torch.randn(2, 3, 8, 8))


# Initialisation

@every_branch
def test_initialisation(branch):
    torch.manual_seed(0)
    model = AttentionResNet(11, global_branch=branch)
    model.init_weights()
    norms, kinds = [], set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert_normal(module.weight, math.sqrt(2 / (module.kernel_size[0]**2 * module.out_channels)), name)
            assert (module.bias is not None) == (name == 'descriptor.conv.conv')
            assert module.bias is None or (module.bias == 0).all()
        elif isinstance(module, nn.BatchNorm2d):
            assert_initialised_bn(module, name)
            norms.append(module.weight.detach())
        elif isinstance(module, nn.Linear):
            assert is_uniform(module.weight, 1 / 16, 0.95) and is_uniform(module.bias, 1 / 16, 0.95)
        kinds.add(type(module))
    assert is_uniform(2 * torch.cat(norms) - 1, 1, 0.95)
    assert (nn.Linear in kinds) == (branch == 'conv')


def test_synchronised_bn_is_initialised_alike():
    norms = initialised_sync_norms(AttentionResNet(11))
    assert len(norms) == 11 and all(0 <= norm.weight.min() < norm.weight.max() < 1 for norm in norms)


def test_initialisation_can_be_chosen_and_follows_the_seed():
    assert_follows_the_seed(lambda: AttentionResNet(11), 'conv0.weight')
    model = AttentionResNet(11, init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    model.init_weights()
    assert all((m.weight == 0.5).all() for m in model.modules() if isinstance(m, nn.Conv2d))


# Configs

@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmat'])
@pytest.mark.parametrize('registry', [MODELS, ROOT_MODELS], ids=['ours', 'root'])
def test_builds_from_any_scope(scope, registry):
    with DefaultScope.overwrite_default_scope(scope):
        model = registry.build(dict(type='mmat.AttentionResNet', depth=11, out_indices=[1]))
    assert isinstance(model, AttentionResNet)
    assert [out.shape[1] for out in model(torch.randn(2, 3, 8, 8))] == [128, 256]


@pytest.mark.parametrize('options, message', [
    (dict(depth=15), r'depth .*9n \+ 2.*got 15\b.*nearest is 11\b'),
    (dict(depth=16), r'depth .*got 16\b.*nearest is 20\b'),
    (dict(depth=163), r'depth .*got 163\b.*nearest is 164\b'),
    (dict(depth=166), r'depth .*got 166\b.*nearest is 164\b'),
    # 9 * 0 + 2 layers are no network.
    (dict(depth=2), r'depth .*got 2\b.*nearest is 11\b'),
    (dict(depth=-7), r'depth .*got -7\b.*nearest is 11\b'),
    (dict(depth='164'), r"depth .*got '164'.*nearest is 11\b"),
    (dict(depth=20.), r'depth .*got 20\.0\b.*nearest is 20\b'),
    (dict(out_indices=(0, 3)), r'out_indices .*0, 1, 2.*\(0, 3\)'),
    (dict(out_indices=(-1, )), r'out_indices .*0, 1, 2.*\(-1,\)'),
    (dict(out_indices=2), r'out_indices .*0, 1, 2,.*\b2\b'),
    (dict(global_branch='max'), "global_branch .*'conv'.*'pool'.*'max'"),
    (dict(global_branch=None), 'global_branch .*None'),
])
def test_refuses_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        AttentionResNet(**options)
    assert 'AttentionResNet' in str(error.value)
