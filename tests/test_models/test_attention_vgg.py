import math
from itertools import combinations

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
    join_parts,
    lively,
    tensors,
)
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope

from mmat.errors import ConfigError, LayerError, UserError
from mmat.models import AttentionVGG
from mmat.models.backbones.layers import average_gradient
from mmat.models.taps import find_layer, tap
from mmat.registry import MODELS

# Written out, not read from the package.
ARCHS = ['authors', 'plain', 'reimplementation']
POSITIONS = ['before_pool', 'after_pool']
LEVELS = [levels for count in range(4) for levels in combinations(range(3), count)]
# Widths of the convolutions in multiples of the first's; the last two are the tail, which 'plain' lacks.
WIDTHS = [1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8]
# Dropout after the convolutions of each block.
DROPOUTS = [(.3, 0, .4, 0, .4, .4, 0), (.4, .4, 0), (.4, .4, 0)]

every_arch = pytest.mark.parametrize('arch', ARCHS)
every_position = pytest.mark.parametrize('position', POSITIONS)


# Parameters. Each channel of a convolution has its bias and its BN's weight and bias.
LOCAL = (9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256 * 256 + 256 * 512 + 5 * 512 * 512)
         + 3 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512))
TAIL = 9 * 2 * 512 * 512 + 3 * 2 * 512
DENSE = 512 * 512 + 512
# The neck scores each level with a vector and a bias, and brings g to 256 channels through BN and a linear layer.
TO_256 = 2 * 512 + 512 * 256 + 256


@pytest.mark.parametrize('backbone, neck, head, by_hand, expected', [
    (dict(), dict(in_channels=(256, 512, 512)), dict(num_classes=10, in_channels=(256, 512, 512)),
     LOCAL + TAIL + DENSE + TO_256 + 257 + 513 + 513 + 2 * 1280 + 1280 * 10 + 10, 19856461),
    (dict(), dict(in_channels=(256, 512, 512)), dict(num_classes=100, in_channels=(256, 512, 512)),
     LOCAL + TAIL + DENSE + TO_256 + 257 + 513 + 513 + 2 * 1280 + 1280 * 100 + 100, 19971751),
    (dict(out_indices=(1, 2)), dict(in_channels=(512, 512)), dict(num_classes=10, in_channels=(512, 512)),
     LOCAL + TAIL + DENSE + 513 + 513 + 2 * 1024 + 1024 * 10 + 10, 19720780),
    (dict(out_indices=(2, )), dict(in_channels=(512, )), dict(num_classes=10, in_channels=(512, )),
     LOCAL + TAIL + DENSE + 513 + 2 * 512 + 512 * 10 + 10, 19714123),
    # The authors' baseline, whose classifier is BN, ReLU, dropout and a linear layer too.
    (dict(arch='plain', out_indices=()), None, dict(num_classes=10, in_channels=(512, )),
     LOCAL + DENSE + 2 * 512 + 512 * 10 + 10, 14991946),
    # The re-implementation brings l1 to 512 channels, without bias, and has no BN before its classifier.
    (dict(arch='reimplementation'), dict(in_channels=(256, 512, 512), project='local', bias=False),
     dict(num_classes=10, in_channels=(512, 512, 512), norm=False),
     LOCAL + TAIL + DENSE + 256 * 512 + 3 * 512 + 1536 * 10 + 10, 19855434),
])
def test_parameter_count(backbone, neck, head, by_hand, expected):
    assert by_hand == expected
    # Counted only, so no memory or initialisation is needed.
    with torch.device('meta'):
        parts = [MODELS.build(dict(type='mmat.AttentionVGG', **backbone)),
                 MODELS.build(dict(type='mmat.ConcatClsHead', **head))]
        if neck is not None:
            parts.append(MODELS.build(dict(type='mmat.SpatialAttentionNeck', global_channels=512, **neck)))
    assert sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad) == expected


@every_arch
@pytest.mark.parametrize('base_channels', [1, 4, 16])
def test_weights_and_their_names(arch, base_channels):
    names = [f'block0.conv{i}' for i in range(7)]
    names += [f'block{index}.conv{i}' for index in (1, 2) for i in range(3)]
    names += [] if arch == 'plain' else ['tail.conv0', 'tail.conv1']
    expected, channels = {}, 5
    for name, width in zip(names, WIDTHS):
        width *= base_channels
        expected[f'{name}.conv.weight'] = (width, channels, 3, 3)
        for key in ('conv.bias', 'bn.weight', 'bn.bias'):
            expected[f'{name}.{key}'] = (width, )
        channels = width
    expected.update({'dense.weight': (8 * base_channels, 8 * base_channels, 1, 1), 'dense.bias': (8 * base_channels, )})
    model = AttentionVGG(arch, base_channels=base_channels, in_channels=5)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == expected


# Shapes

def test_the_default_on_a_cifar_image():
    with torch.device('meta'):
        outs = AttentionVGG()(torch.empty(2, 3, 32, 32))
    assert [tuple(out.shape) for out in outs] == [(2, 256, 32, 32), (2, 512, 16, 16), (2, 512, 8, 8), (2, 512)]


# Sizes of the local features before pooling and of the last convolution, by hand: the authors round up, 80, 40, 20, 10,
# 5, 3, the re-implementation down, ..., 5, 2.
@pytest.mark.parametrize('arch, image_size, kernel, size, before', [
    ('authors', 32, 1, (32, 32), [(32, 32), (16, 16), (8, 8)]),
    ('plain', 32, 1, (32, 32), [(8, 8), (4, 4), (2, 2)]),
    ('reimplementation', 32, 1, (32, 32), [(32, 32), (16, 16), (8, 8)]),
    ('authors', 33, 2, (33, 33), [(33, 33), (17, 17), (9, 9)]),
    ('reimplementation', 63, 1, (63, 63), [(63, 63), (31, 31), (15, 15)]),
    ('authors', 64, 2, (64, 64), [(64, 64), (32, 32), (16, 16)]),
    ('plain', 64, 2, (64, 64), [(16, 16), (8, 8), (4, 4)]),
    ('reimplementation', 64, 2, (64, 64), [(64, 64), (32, 32), (16, 16)]),
    ('authors', 80, 3, (80, 80), [(80, 80), (40, 40), (20, 20)]),
    ('plain', 80, 3, (80, 80), [(20, 20), (10, 10), (5, 5)]),
    ('reimplementation', 80, 2, (80, 80), [(80, 80), (40, 40), (20, 20)]),
    # Larger than image_size: several positions are averaged.
    ('authors', 32, 1, (50, 70), [(50, 70), (25, 35), (13, 18)]),
    ('plain', 32, 1, (50, 70), [(13, 18), (7, 9), (4, 5)]),
    ('reimplementation', 32, 1, (50, 70), [(50, 70), (25, 35), (12, 17)]),
    ('authors', 64, 2, (96, 80), [(96, 80), (48, 40), (24, 20)]),
])
@every_position
def test_shapes(arch, image_size, kernel, size, before, position):
    model = AttentionVGG(arch, position, base_channels=2, image_size=image_size).eval()
    assert model.dense.kernel_size == (kernel, kernel)
    with torch.no_grad():
        outs = model(torch.randn(2, 3, *size))
    up = arch != 'reimplementation'
    sizes = before if position == 'before_pool' else [((h + up) // 2, (w + up) // 2) for h, w in before]
    assert [tuple(out.shape) for out in outs] == [*((2, c, *hw) for c, hw in zip((8, 16, 16), sizes)), (2, 16)]


def test_in_channels():
    outs = AttentionVGG(base_channels=1, in_channels=1)(torch.randn(2, 1, 32, 32))
    assert [out.shape[1] for out in outs] == [4, 8, 8, 8]


# Reference implementation over a dictionary of tensors, from the authors' layer plan.

def pieces(params, arch, position, training=False):
    """Four functions: of the image, that makes l1; of l1, that makes l2; of l2; of l3, that makes g."""
    eps = 1e-5 if arch == 'reimplementation' else 1e-3

    def drop(x, p):
        return x if arch == 'reimplementation' else dropout(x, p, training)

    def conv(x, base, p):
        x = F.conv2d(x, params[f'{base}.conv.weight'], params[f'{base}.conv.bias'], padding=1)
        x = F.batch_norm(x, params[f'{base}.bn.running_mean'], params[f'{base}.bn.running_var'],
                         params[f'{base}.bn.weight'], params[f'{base}.bn.bias'], training, 0.1, eps)
        return drop(F.relu(x), p)

    def pool(x):
        return F.max_pool2d(x, 2, ceil_mode=arch != 'reimplementation')

    def block(index):

        def run(x):
            if index > 0 and position == 'before_pool':
                x = pool(x)
            for i, p in enumerate(DROPOUTS[index]):
                x = conv(x, f'block{index}.conv{i}', p)
                if arch == 'plain' and (index, i) in ((0, 1), (0, 3)):
                    x = pool(x)
            return pool(x) if position == 'after_pool' else x

        return run

    def descriptor(x):
        if position == 'before_pool':
            x = pool(x)
        if arch != 'plain':
            x = pool(conv(x, 'tail.conv0', .4))
            x = pool(conv(x, 'tail.conv1', .4))
        # A linear layer on every window of the size of its kernel, averaged.
        weight = params['dense.weight']
        windows = F.unfold(drop(x, .5), weight.shape[-1]).mean(2)
        return F.linear(windows, weight.flatten(1), params['dense.bias'])

    return [block(0), block(1), block(2), descriptor]


@every_arch
@every_position
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('image_size, size', [(32, (32, 32)), (32, (50, 66)), (80, (80, 80))])
def test_equals_the_authors_network(arch, position, training, image_size, size, monkeypatch):
    monkeypatch.setattr(F, 'dropout', dropout)
    model = AttentionVGG(arch, position, base_channels=4, image_size=image_size)
    lively(model, weights=True).double().train(training)
    params = tensors(model)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    outs = model(x)
    expected = join_parts(pieces(params, arch, position, training), x)
    assert len(outs) == len(expected) == 4
    for found, out in zip(outs, expected):
        # The values have neither vanished nor exploded.
        assert 1e-3 < out.std() < 1e3
        close(found, out)
    # In training both update the running statistics, with the same momentum.
    assert_same(tensors(model), params)


def test_dropout_is_off_in_evaluation():
    model = AttentionVGG(base_channels=2)
    x = torch.randn(2, 3, 32, 32)
    torch.manual_seed(0)
    assert not torch.equal(model(x)[-1], model(x)[-1])
    model.eval()
    assert torch.equal(model(x)[-1], model(x)[-1])


@every_arch
@pytest.mark.parametrize('out_indices', [*LEVELS, [2, 0], [1]])
def test_out_indices(arch, out_indices):
    torch.manual_seed(0)
    model = AttentionVGG(arch, base_channels=1, out_indices=out_indices).eval()
    paths = ['block0', 'block1', 'block2', 'dense']
    with torch.no_grad(), tap(model, paths) as taps:
        outs = model(torch.randn(2, 3, 32, 32))
    assert isinstance(outs, tuple) and len(outs) == len(out_indices) + 1
    for out, index in zip(outs, sorted(out_indices)):
        assert out is taps[paths[index]]
    assert torch.equal(outs[-1], taps['dense'].flatten(1))


# Taps

@every_arch
@pytest.mark.parametrize('position, names', [('before_pool', ['block0', 'block1', 'block2']),
                                             ('after_pool', ['pool0', 'pool1', 'pool2'])])
@pytest.mark.parametrize('average_gradients', [False, True])
@pytest.mark.parametrize('training', [False, True])
def test_stages_are_the_local_features(arch, position, names, average_gradients, training):
    model = nn.Module()
    model.backbone = AttentionVGG(arch, position, base_channels=1, average_gradients=average_gradients).train(training)
    paths = [find_layer(model, i) for i in range(3)]
    assert paths == [find_layer(model, i) for i in range(-3, 0)] == [f'backbone.{name}' for name in names]
    with pytest.raises(LayerError, match=r'\b3\b.*AttentionVGG'):
        find_layer(model, 3)
    # Raises if a later layer overwrites them.
    with tap(model, paths) as taps:
        outs = model.backbone(torch.randn(2, 3, 32, 32))
    for path, out in zip(paths, outs):
        assert torch.equal(taps[path], out)


# Gradients

@every_position
@pytest.mark.parametrize('arch, out_indices', [
    *(('authors', levels) for levels in LEVELS), ('plain', (0, 1, 2)), ('reimplementation', (0, 1, 2))])
@pytest.mark.parametrize('options, average', [({}, False), (dict(average_gradients=True), True)])
def test_gradients_where_branches_meet(arch, position, out_indices, options, average):
    model = AttentionVGG(arch, position, out_indices, base_channels=4, **options)
    lively(model, weights=True).double().eval()
    params = tensors(model, requires_grad=True)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    expected = authors_backward(pieces(params, arch, position), x, out_indices, average)
    assert_gradients(model, x, expected, params)
    assert params['block0.conv0.conv.weight'].grad.abs().max() > 1e-6


@every_position
@pytest.mark.parametrize('out_indices', [(2, ), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize('average', [False, True])
def test_double_backward(position, out_indices, average):
    model = AttentionVGG('authors', position, out_indices, 4, average_gradients=average)
    lively(model, weights=True).double().eval()
    params = tensors(model, requires_grad=True)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    assert_double_backward(model, pieces(params, 'authors', position), params, x, out_indices, average)


@every_position
@pytest.mark.parametrize('out_indices', LEVELS)
def test_averaging_gradients_changes_no_value(position, out_indices):
    models = [AttentionVGG('authors', position, out_indices, base_channels=1, average_gradients=average).eval()
              for average in (False, True)]
    x = torch.randn(2, 3, 32, 32)
    expected = assert_same_values(models, x)
    # A frozen network has no gradients to average.
    outs = models[1].requires_grad_(False)(x)
    assert all(torch.equal(out, other) and not out.requires_grad for out, other in zip(outs, expected))


@pytest.mark.parametrize('count', [1, 2, 3])
def test_average_gradient(count):
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    y = x * 1
    result = average_gradient(y, count)
    assert torch.equal(result, y)
    # A single branch needs no hook.
    assert (result is y) == (count == 1)
    # Every branch reads the result. Other readers of the input keep their whole gradient.
    loss = sum((result * branch).sum() for branch in range(1, count + 1)) + (7 * y).sum()
    loss.backward()
    close(x.grad, torch.full_like(x, (count + 1) / 2 + 7))
    constant = torch.ones(3)
    assert average_gradient(constant, count) is constant
    with torch.no_grad():
        assert torch.equal(average_gradient(constant.requires_grad_(), count), constant)


# Initialisation

@every_arch
def test_initialisation(arch):
    torch.manual_seed(0)
    model = AttentionVGG(arch, base_channels=16, image_size=64)
    model.init_weights()
    norms = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            area = module.kernel_size[0]**2
            if arch == 'reimplementation':
                # Xavier's bound is sqrt(6 / (fan in + fan out)), times the gain.
                bound = math.sqrt(2) * math.sqrt(6 / (area * (module.in_channels + module.out_channels)))
                assert is_uniform(weight, bound), name
                assert (module.bias == 0).all(), name
            elif name == 'dense':
                bound = 1 / math.sqrt(area * module.in_channels)
                assert area == 4 and is_uniform(weight, bound)
                assert module.bias.abs().max() <= bound
            else:
                assert_normal(weight, math.sqrt(2 / (9 * module.out_channels)), name)
                assert (module.bias == 0).all(), name
        elif isinstance(module, nn.BatchNorm2d):
            assert_initialised_bn(module, name)
            norms.append(module.weight.detach())
    assert is_uniform(2 * torch.cat(norms) - 1, 1)


def test_synchronised_bn_is_initialised_alike():
    norms = initialised_sync_norms(AttentionVGG(base_channels=4))
    assert len(norms) == 15 and all(0 <= norm.weight.min() < norm.weight.max() < 1 for norm in norms)


def test_initialisation_can_be_chosen():
    model = AttentionVGG(base_channels=1, init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    model.init_weights()
    assert all((m.weight == 0.5).all() for m in model.modules() if isinstance(m, nn.Conv2d))


@every_arch
def test_initialisation_follows_the_seed(arch):
    assert_follows_the_seed(lambda: AttentionVGG(arch, base_channels=1), 'dense.weight')


# Configs

@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmat'])
@pytest.mark.parametrize('registry', [MODELS, ROOT_MODELS], ids=['ours', 'root'])
def test_builds_from_any_scope(scope, registry):
    with DefaultScope.overwrite_default_scope(scope):
        model = registry.build(dict(type='mmat.AttentionVGG', base_channels=1, out_indices=[1]))
    assert isinstance(model, AttentionVGG)
    assert [out.shape[1] for out in model(torch.randn(2, 3, 32, 32))] == [8, 8]


def test_the_authors_network_for_80_pixels():
    # A first pooling of 5: from its second block on it is the network for 32 pixels, weights included.
    small = AttentionVGG(base_channels=2).eval()
    large = AttentionVGG(base_channels=2, image_size=80, first_pool=5).eval()
    large.load_state_dict(small.state_dict())
    images = torch.randn(2, 3, 80, 80)
    outs = large(images)
    assert [tuple(out.shape[2:]) for out in outs] == [(80, 80), (16, 16), (8, 8), ()]
    x = F.max_pool2d(small.block0(images), 5)
    l2 = small.block1(x)
    l3 = small.block2(F.max_pool2d(l2, 2))
    close(outs[1], l2)
    close(outs[2], l3)
    close(outs[3], small.dense(small.tail(F.max_pool2d(l3, 2))).flatten(1))
    # Poolings that round down lose up to four pixels more.
    assert AttentionVGG('reimplementation', base_channels=1, image_size=80, first_pool=5).dense.kernel_size == (1, 1)


@pytest.mark.parametrize('options, least', [
    (dict(), 1), (dict(image_size=80), 65), (dict(arch='reimplementation'), 32), (dict(arch='plain'), 1),
    (dict(arch='reimplementation', image_size=80), 64), (dict(image_size=80, first_pool=5), 1),
    (dict(arch='reimplementation', image_size=80, first_pool=5), 80)])
def test_images_that_are_too_small_are_refused(options, least):
    model = AttentionVGG(base_channels=1, **options).eval()
    assert model(torch.randn(1, 3, least, least + 3))[-1].shape == (1, 8)
    if least > 1:
        with pytest.raises(UserError, match=rf'AttentionVGG.*\b{least}\b.*\({least + 3}, {least - 1}\)'):
            model(torch.randn(1, 3, least + 3, least - 1))


@pytest.mark.parametrize('options, message', [
    (dict(arch='vgg16'), r"arch .*\('authors', 'plain', 'reimplementation'\).*'vgg16'"),
    (dict(arch='Authors'), "arch .*'Authors'"),
    (dict(arch=None), 'arch .*None'),
    (dict(position='before'), r"position .*\('before_pool', 'after_pool'\).*'before'"),
    (dict(position=None), 'position .*None'),
    (dict(out_indices=(0, 3)), r'out_indices .*0, 1, 2.*\(0, 3\)'),
    (dict(out_indices=(-1, )), r'out_indices .*0, 1, 2.*\(-1,\)'),
    (dict(out_indices=2), r'out_indices .*0, 1, 2,.*\b2\b'),
    (dict(base_channels=0), r'base_channels .*\b1\b.*\b0\b'),
    (dict(base_channels=-64), r'base_channels .*\b1\b.*-64'),
    (dict(image_size=31), r'image_size .*\b32\b.*\b31\b'),
    (dict(image_size=0), r'image_size .*\b32\b.*\b0\b'),
    (dict(image_size=80.5), r'image_size .*80\.5'),
    (dict(base_channels='a'), "base_channels .*'a'"),
    (dict(in_channels=True), 'in_channels .*True'),
    (dict(first_pool=1), r'first_pool .*\b2\b.*\b1\b'),
    (dict(out_indices=None), 'out_indices .*0, 1, 2.*None'),
])
def test_refuses_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        AttentionVGG(**options)
    assert 'AttentionVGG' in str(error.value)
