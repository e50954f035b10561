import math
import re

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
    initialised_sync_norms,
    lively,
    tensors,
)
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, LayerError
from mmat.models import NIN
from mmat.models.taps import find_layer, tap
from mmat.registry import MODELS

# Written out, not read from the package.
WIDE = ((192, 160, 96), (192, 192, 192), (192, 192, 192))
THIN = ((84, 72, 44), (84, 84, 84), (84, 84, 84))
# Distinct widths, so that swapped layers show.
SMALL = ((6, 5, 3), (7, 4, 9), (8, 11, 10))
BLOCKS = ['block0', 'block1', 'block2']
BN = dict(type='BN')
VARIANTS = [(BN, True), (None, True), (BN, False), (None, False)]

every_variant = pytest.mark.parametrize('norm_cfg, relu_before_pool', VARIANTS)


def classifier_config(arch, channels, **backbone):
    return dict(
        type='mmpretrain.ImageClassifier',
        # mmpretrain's default has no prefix, so it builds in mmpretrain's scope only.
        data_preprocessor=dict(type='mmat.BatchPreprocessor', mean=[0.] * 3, std=[1.] * 3),
        backbone=dict(type='mmat.NIN', arch=arch, **backbone),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmat.LinearClsHead', num_classes=10, in_channels=channels))


# Weights of the convolutions, output channels of all convolutions together, and the classifier of ten classes.
WIDE_CONVS = (5 * 5 * 3 * 192 + 192 * 160 + 160 * 96 + 5 * 5 * 96 * 192 + 192 * 192 + 192 * 192
              + 3 * 3 * 192 * 192 + 192 * 192 + 192 * 192)
WIDE_CHANNELS = 192 + 160 + 96 + 6 * 192
THIN_CONVS = (5 * 5 * 3 * 84 + 84 * 72 + 72 * 44 + 5 * 5 * 44 * 84 + 84 * 84 + 84 * 84
              + 3 * 3 * 84 * 84 + 84 * 84 + 84 * 84)
THIN_CHANNELS = 84 + 72 + 44 + 6 * 84


@pytest.mark.parametrize('arch, channels, norm_cfg, by_hand, expected', [
    # BN has a weight and a bias for each channel; without it each convolution has a bias.
    ('wide', 192, BN, WIDE_CONVS + 2 * WIDE_CHANNELS + 1930, 1005642),
    ('wide', 192, None, WIDE_CONVS + WIDE_CHANNELS + 1930, 1004042),
    ('thin', 84, BN, THIN_CONVS + 2 * THIN_CHANNELS + 850, 201902),
    ('thin', 84, None, THIN_CONVS + THIN_CHANNELS + 850, 201198),
])
@pytest.mark.parametrize('relu_before_pool', [True, False])
def test_parameter_count(arch, channels, norm_cfg, by_hand, expected, relu_before_pool):
    model = MODELS.build(classifier_config(arch, channels, norm_cfg=norm_cfg, relu_before_pool=relu_before_pool))
    assert by_hand == expected
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_thin_is_wide_scaled():
    # As documented: times 0.44, rounded to a multiple of four.
    assert THIN == tuple(tuple(4 * round(0.44 * width / 4) for width in block) for block in WIDE)


@pytest.mark.parametrize('arch, widths', [('wide', WIDE), ('thin', THIN), (SMALL, SMALL), ([*map(list, SMALL)], SMALL)])
@every_variant
def test_weights_and_their_names(arch, widths, norm_cfg, relu_before_pool):
    expected, channels = {}, 3
    for name, kernel, block in zip(BLOCKS, (5, 5, 3), widths):
        for index, width in enumerate(block):
            size = kernel if index == 0 else 1
            base = f'{name}.conv{index}'
            expected[f'{base}.conv.weight'] = (width, channels, size, size)
            for key in ['conv.bias'] if norm_cfg is None else ['bn.weight', 'bn.bias']:
                expected[f'{base}.{key}'] = (width, )
            channels = width
    model = NIN(arch, norm_cfg=norm_cfg, relu_before_pool=relu_before_pool)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == expected


def test_the_default_is_wide_with_bn_and_relu():
    torch.manual_seed(0)
    default = NIN()
    torch.manual_seed(0)
    model = NIN('wide', 3, BN, True, (2, ))
    assert repr(default) == repr(model)
    assert default.state_dict().keys() == model.state_dict().keys()


# Sizes by hand. Windows of three at every second pixel: of 32 pixels the 16th window holds two, which only rounding up
# keeps; 31 and 33 pixels are covered by 15 and 16 whole windows.
@pytest.mark.parametrize('size, sizes', [
    ((32, 32), [(32, 32), (16, 16), (8, 8)]),
    ((16, 16), [(16, 16), (8, 8), (4, 4)]),
    ((33, 31), [(33, 31), (16, 15), (8, 7)]),
    ((18, 19), [(18, 19), (9, 9), (4, 4)]),
    ((20, 7), [(20, 7), (10, 3), (5, 1)]),
    # The smallest size.
    ((4, 5), [(4, 5), (2, 2), (1, 1)]),
])
@pytest.mark.parametrize('arch, channels', [('thin', (44, 84, 84)), (SMALL, (3, 9, 10))])
def test_shapes_of_taps_and_outputs(arch, channels, size, sizes):
    model = NIN(arch, out_indices=(0, 1, 2)).eval()
    with torch.no_grad(), tap(model, BLOCKS) as taps:
        outs = model(torch.randn(2, 3, *size))
    shapes = [(2, width, *hw) for width, hw in zip(channels, sizes)]
    assert [tuple(taps[path].shape) for path in BLOCKS] == shapes
    assert [tuple(out.shape) for out in outs] == shapes


def test_wide_on_a_cifar_image():
    model = NIN('wide', out_indices=(0, 1, 2)).eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, 32, 32))
    assert [tuple(out.shape) for out in outs] == [(1, 96, 32, 32), (1, 192, 16, 16), (1, 192, 8, 8)]


# Reference implementation over a dictionary of tensors, from the published layer plan.

def oracle(x, params, training, norm, relu_before_pool):
    blocks = []
    for name, kernel in zip(BLOCKS, (5, 5, 3)):
        if name == 'block1':
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        if name == 'block2':
            x = F.avg_pool2d(x, 3, 2, ceil_mode=True)
        for index in range(3):
            base = f'{name}.conv{index}'
            padding = kernel // 2 if index == 0 else 0
            x = F.conv2d(x, params[f'{base}.conv.weight'], None if norm else params[f'{base}.conv.bias'],
                         padding=padding)
            if norm:
                x = F.batch_norm(x, params[f'{base}.bn.running_mean'], params[f'{base}.bn.running_var'],
                                 params[f'{base}.bn.weight'], params[f'{base}.bn.bias'], training, 0.1, 1e-5)
            if index < 2 or relu_before_pool:
                x = F.relu(x)
        blocks.append(x)
    return blocks


@pytest.mark.parametrize('arch, size', [('wide', (6, 4)), ('thin', (10, 12)), (SMALL, (32, 32)), (SMALL, (19, 18))])
@every_variant
@pytest.mark.parametrize('training', [False, True])
def test_equals_the_published_network(arch, size, norm_cfg, relu_before_pool, training):
    torch.manual_seed(0)
    model = NIN(arch, norm_cfg=norm_cfg, relu_before_pool=relu_before_pool, out_indices=(0, 1, 2))
    lively(model).double().train(training)
    params = tensors(model)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = oracle(x, params, training, norm_cfg is not None, relu_before_pool)
    with tap(model, BLOCKS) as taps:
        outs = model(x)
    for path, out, block in zip(BLOCKS, outs, expected):
        # A block ends with a ReLU or it does not.
        assert (block.min() == 0) if relu_before_pool else (block.min() < 0)
        torch.testing.assert_close(taps[path], block, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(out, block, rtol=1e-9, atol=1e-9)
    # In training both update the running statistics, with the same momentum.
    assert_same(tensors(model), params, rtol=1e-9)


@every_variant
@pytest.mark.parametrize('training', [False, True])
def test_gradients_equal_the_published_networks(norm_cfg, relu_before_pool, training):
    torch.manual_seed(0)
    model = NIN(SMALL, norm_cfg=norm_cfg, relu_before_pool=relu_before_pool)
    lively(model).double().train(training)
    params = tensors(model, requires_grad=True)
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    target = torch.randn(3, 10, 3, 3, dtype=torch.float64)
    (model(x)[-1] * target).sum().backward()
    (oracle(x, params, training, norm_cfg is not None, relu_before_pool)[-1] * target).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, params[name].grad, rtol=1e-8, atol=1e-8, msg=name)


@every_variant
def test_which_layers_are_linear(norm_cfg, relu_before_pool):
    model = NIN(SMALL, norm_cfg=norm_cfg, relu_before_pool=relu_before_pool).train()
    lively(model)
    paths = [f'{block}.conv{index}' for block in BLOCKS for index in range(3)]
    with tap(model, paths) as taps:
        model(torch.randn(4, 3, 16, 16))
    for path in paths:
        linear = path.endswith('conv2') and not relu_before_pool
        assert (taps[path] < 0).any() == linear, path


def test_the_poolings():
    model = NIN(SMALL)
    x = torch.arange(16.).view(1, 1, 4, 4)
    # Windows at rows and columns (0, 1, 2) and (2, 3); the mean excludes pixels outside.
    assert model.pool0(x).flatten().tolist() == [10, 11, 14, 15]
    assert model.pool1(x).flatten().tolist() == [5, 6.5, 11, 12.5]


# Taps

@pytest.mark.parametrize('arch', ['wide', 'thin', SMALL])
def test_stages_are_the_blocks(arch):
    model = nn.Module()
    model.backbone = NIN(arch)
    expected = ['backbone.block0', 'backbone.block1', 'backbone.block2']
    assert [find_layer(model, i) for i in range(3)] == expected
    assert [find_layer(model, i) for i in range(-3, 0)] == expected
    assert [find_layer(model, path) for path in expected] == expected
    with pytest.raises(LayerError, match=r'\b3\b.*NIN'):
        find_layer(model, 3)


@every_variant
@pytest.mark.parametrize('training', [False, True])
def test_taps_in_a_classifier_are_left_as_they_were(norm_cfg, relu_before_pool, training):
    model = MODELS.build(classifier_config(SMALL, 10, norm_cfg=norm_cfg, relu_before_pool=relu_before_pool))
    lively(model).train(training)
    then = {}
    for index, name in enumerate(BLOCKS):
        # Copied after the block, before the next layer runs.
        getattr(model.backbone, name).register_forward_hook(
            lambda module, args, output, index=index: then.update({index: (output, output.detach().clone())}))
    paths = [find_layer(model, i) for i in range(3)]
    x = torch.randn(2, 3, 18, 18)
    params = tensors(model.backbone)
    with tap(model, paths) as taps:
        loss = model(x, BatchedSamples(torch.tensor([3, 7])), mode='loss')['loss']
    expected = oracle(x, params, training, norm_cfg is not None, relu_before_pool)
    loss.backward()
    for index, path in enumerate(paths):
        output, copy = then[index]
        assert taps[path] is output
        assert torch.equal(output, copy)
        # Before pooling.
        torch.testing.assert_close(taps[path], expected[index], rtol=1e-4, atol=1e-4)


def test_the_input_is_left_as_it_was():
    x = torch.randn(2, 3, 8, 8)
    copy = x.clone()
    NIN(SMALL, norm_cfg=None)(x)
    assert torch.equal(x, copy)


@pytest.mark.parametrize('out_indices, blocks', [
    ((2, ), [2]), ((0, ), [0]), ((2, 0), [0, 2]), ([1], [1]), ((0, 1, 2), [0, 1, 2]),
])
def test_out_indices(out_indices, blocks):
    model = NIN(SMALL, out_indices=out_indices).eval()
    with tap(model, BLOCKS) as taps:
        outs = model(torch.randn(2, 3, 8, 8))
    assert isinstance(outs, tuple) and len(outs) == len(blocks)
    for out, block in zip(outs, blocks):
        assert out is taps[f'block{block}']


def test_in_channels():
    out, = NIN(SMALL, in_channels=1)(torch.randn(2, 1, 8, 8))
    assert out.shape == (2, 10, 2, 2)


# Initialisation

@pytest.mark.parametrize('arch, channels', [('wide', 192), ('thin', 84)])
@pytest.mark.parametrize('norm_cfg', [BN, None])
def test_initialisation_is_the_authors(arch, channels, norm_cfg):
    torch.manual_seed(0)
    # Initialise the whole classifier, like a runner.
    model = MODELS.build(classifier_config(arch, channels, norm_cfg=norm_cfg))
    model.init_weights()
    weights = []
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            assert (module.bias is None) == (norm_cfg is not None)
            assert module.bias is None or (module.bias == 0).all()
            fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            assert_normal(module.weight, math.sqrt(2 / fan_in), name)
        elif isinstance(module, nn.BatchNorm2d):
            assert_initialised_bn(module, name)
            assert module.weight.std() > 0.1
            weights.append(module.weight.detach())
    assert len(weights) == (0 if norm_cfg is None else 9)
    if weights:
        assert_uniform_bn_weights(weights)


def test_initialisation_follows_the_seed():
    assert_follows_the_seed(lambda: NIN('thin'), 'block0.conv0.conv.weight')


def test_initialisation_can_be_chosen():
    model = NIN(SMALL, init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    model.init_weights()
    assert all((m.weight == 0.5).all() for m in model.modules() if isinstance(m, nn.Conv2d))


# Configs

@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmat'])
@pytest.mark.parametrize('registry', [MODELS, ROOT_MODELS], ids=['ours', 'root'])
@every_variant
def test_builds_from_any_scope(scope, registry, norm_cfg, relu_before_pool):
    config = Config(dict(model=dict(type='mmat.NIN', arch=[*map(list, SMALL)], norm_cfg=norm_cfg,
                                    relu_before_pool=relu_before_pool))).model
    with DefaultScope.overwrite_default_scope(scope):
        model = registry.build(config)
        out, = model(torch.randn(2, 3, 8, 8))
    assert isinstance(model, NIN)
    assert out.shape == (2, 10, 2, 2)
    # The config is not changed.
    assert config.norm_cfg == norm_cfg


@pytest.mark.parametrize('arch, channels', [('wide', 192), ('thin', 84), (SMALL, 10)])
@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain'])
def test_classifier(arch, channels, scope):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(classifier_config(arch, channels))
    model.init_weights()
    x = torch.randn(2, 3, 16, 16)
    losses = model.train()(x, BatchedSamples(torch.tensor([3, 7])), mode='loss')
    losses['loss'].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name
    model.eval()
    with torch.no_grad():
        scores = model(x)
        features = model.backbone(x)[-1].mean((2, 3))
    torch.testing.assert_close(scores, F.linear(features, model.head.fc.weight, model.head.fc.bias))
    predictions = model(x, BatchedSamples(torch.tensor([3, 7])), mode='predict')
    assert [sample.pred_label.item() for sample in predictions] == scores.argmax(1).tolist()


def test_options_of_the_norm_are_passed_on():
    model = NIN(SMALL, norm_cfg=dict(type='BN', eps=0.25, momentum=0.5))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(0.25, 0.5)] * 9


@pytest.mark.parametrize('options, message', [
    (dict(arch='huge'), r"arch of NIN.*\['thin', 'wide'\].*'huge'"),
    (dict(arch='Wide'), "arch of NIN.*'Wide'"),
    (dict(arch=''), "arch of NIN.*''"),
    *((dict(arch=arch), f'arch of NIN.*{re.escape(str(WIDE))}.*{re.escape(repr(arch))}') for arch in (
        (192, 160, 96), SMALL[:2], SMALL + SMALL[:1], ((6, 5), (7, 4), (8, 11)),
        (SMALL[0], SMALL[1], (8, 11, 10, 9)), (SMALL[0], 7, SMALL[2]), ())),
    (dict(out_indices=(0, 3)), r'out_indices of NIN.*0, 1, 2.*\(0, 3\)'),
    (dict(out_indices=(-1, )), r'out_indices of NIN.*\(-1,\)'),
    (dict(out_indices=()), r'out_indices of NIN.*\(\)'),
    (dict(out_indices=2), r'out_indices of NIN.*0, 1, 2,.*\b2\b'),
])
def test_refuses_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        NIN(**options)


# Double backpropagation, which the gradient-based methods need

def gradient_norm(model, x, label):
    x = x.clone().requires_grad_()
    loss = model(x, BatchedSamples(label), mode='loss')['loss']
    gradient, = torch.autograd.grad(loss, x, create_graph=True)
    return gradient.norm()


@every_variant
@pytest.mark.parametrize('training', [False, True])
def test_double_backward(norm_cfg, relu_before_pool, training):
    torch.manual_seed(0)
    model = MODELS.build(classifier_config(SMALL, 10, norm_cfg=norm_cfg, relu_before_pool=relu_before_pool))
    model.init_weights()
    lively(model).double().train(training)
    x, label = torch.randn(3, 3, 12, 12, dtype=torch.float64), torch.tensor([1, 0, 9])
    gradient_norm(model, x, label).backward()
    slope = 0
    direction = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
        slope += (parameter.grad * direction[name]).sum()

    def moved(step):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += step * direction[name]
        result = gradient_norm(model, x, label).item()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter -= step * direction[name]
        return result

    # A step too small to switch a ReLU or a maximum.
    step = 1e-7
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(slope.item(), rel=1e-5)


@pytest.mark.parametrize('arch, channels', [('wide', 192), ('thin', 84)])
@pytest.mark.parametrize('norm_cfg', [BN, None])
def test_double_backward_as_initialised(arch, channels, norm_cfg):
    torch.manual_seed(0)
    model = MODELS.build(classifier_config(arch, channels, norm_cfg=norm_cfg, relu_before_pool=False)).train()
    model.init_weights()
    gradient_norm(model, torch.randn(2, 3, 16, 16), torch.tensor([1, 0])).backward()
    for name, parameter in model.named_parameters():
        if 'conv.weight' in name or 'fc.weight' in name:
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


# Other layouts and types

@every_variant
def test_channels_last(norm_cfg, relu_before_pool):
    torch.manual_seed(0)
    model = NIN('thin', norm_cfg=norm_cfg, relu_before_pool=relu_before_pool, out_indices=(0, 1, 2)).train()
    x = torch.randn(2, 3, 16, 16)
    weight = torch.randn(2, 84, 4, 4)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model.to(memory_format=layout).zero_grad()
        outs = model(x.to(memory_format=layout))
        assert all(out.is_contiguous(memory_format=layout) for out in outs)
        (outs[-1] * weight).sum().backward()
        results.append((outs, [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-4, atol=1e-4)
    for found, expected in zip(results[1][1], results[0][1]):
        # Another order of summation may switch a ReLU near zero.
        assert (found - expected).norm() <= 1e-3 * expected.norm() + 1e-4


@every_variant
def test_bfloat16_autocast(norm_cfg, relu_before_pool):
    torch.manual_seed(0)
    model = NIN('thin', norm_cfg=norm_cfg, relu_before_pool=relu_before_pool, out_indices=(0, 1, 2)).train()
    x = torch.randn(2, 3, 16, 16)
    expected = model(x)
    with torch.autocast('cpu', torch.bfloat16), tap(model, BLOCKS) as taps:
        outs = model(x)
    for path, out, block in zip(BLOCKS, outs, expected):
        assert out is taps[path]
        assert out.dtype == torch.bfloat16
        # Nine layers with eight bits of precision.
        assert (out.float() - block).norm() < 0.05 * block.norm()
    outs[-1].float().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize('network', [dict(type='mmat.NIN', arch='thin'), dict(type='mmat.WideResNet', depth=10)])
def test_synchronised_bn_is_initialised_alike(network):
    norms = initialised_sync_norms(MODELS.build(network))
    assert norms and all(0 <= norm.weight.min() < norm.weight.max() < 1 for norm in norms)


@pytest.mark.parametrize('arch', [
    5, None, (1., 2., 3.), ('192', '160', '192'), (((1, 2, 3), ) * 3, ) * 3, ((4, 0, 4), ) * 3, ((4, -4, 4), ) * 3])
def test_malformed_widths_are_refused(arch):
    with pytest.raises(ConfigError, match=f'arch of NIN.*{re.escape(repr(arch))}'):
        NIN(arch)
