import itertools
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmengine.registry import DefaultScope

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, UserError
from mmat.models import AttentionWeights, BaseAttentionNeck, GridAttentionNeck, SpatialAttentionNeck
from mmat.models.taps import find_layer, gives_attention, tap
from mmat.registry import MODELS

# Distinct local features, so that swapped levels show. The second is as wide as the global one.
WIDTHS, GLOBAL, INTER = (4, 6, 5), 6, 7
SIZES = ((6, 5), (3, 4), (2, 3))
MAPS = ['maps.0', 'maps.1', 'maps.2']

SPATIAL = [dict(compatibility=compatibility, bias=bias, normalization=normalization, project=project)
           for compatibility, bias, normalization, project in itertools.product(
               ['pc', 'dp'], [True, False], ['softmax', 'sigmoid'], ['global', 'local'])]

every_spatial = pytest.mark.parametrize('options', SPATIAL, ids=lambda options: '-'.join(map(str, options.values())))
every_normalization = pytest.mark.parametrize('normalization', ['softmax', 'sigmoid'])
every_neck = pytest.mark.parametrize('neck', [SpatialAttentionNeck, GridAttentionNeck])


def build(neck, widths=WIDTHS, width=GLOBAL, **options):
    """Build a neck with arbitrary parameters in float64."""
    if neck is GridAttentionNeck:
        options.setdefault('inter_channels', INTER)
    model = neck(in_channels=widths, global_channels=width, **options).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                # Variances are among those with one dimension.
                tensor.uniform_(0.3, 1.3) if tensor.dim() < 2 else tensor.normal_()
    return model


def features(kind='vector', n=5, widths=WIDTHS, width=GLOBAL, sizes=SIZES, dtype=torch.float64):
    """Local features, and a global one as a vector or a map, or no global one."""
    torch.manual_seed(1)
    local = tuple(torch.randn(n, channels, *size, dtype=dtype) for channels, size in zip(widths, sizes))
    sides = {'vector': (), 'map': (2, 3), 'pixel': (1, 1)}
    return local if kind == 'none' else (*local, torch.randn(n, width, *sides[kind], dtype=dtype))


def run(model, inputs):
    with tap(model, MAPS[:len(model.in_channels)]) as taps:
        pooled = model(inputs)
    return pooled, tuple(taps.values())


def pool(local, scores, normalization):
    """Position by position, as sums over a list of positions."""
    scores, local = scores.flatten(1), local.flatten(2)
    if normalization == 'softmax':
        attention = scores.exp() / scores.exp().sum(1, keepdim=True)
        return (attention[:, None] * local).sum(2), attention
    attention = 1 / (1 + (-scores).exp())
    return (attention[:, None] * local).mean(2), attention


def spatial(model, inputs, compatibility, bias, normalization, project):
    """The docstring of SpatialAttentionNeck in plain PyTorch, in evaluation or training without dropout."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    vector = inputs[-1] if inputs[-1].dim() == 2 else inputs[-1].flatten(2).sum(2) / inputs[-1][0, 0].numel()
    results, maps = [], []
    for i, local in enumerate(inputs[:3]):
        g = vector
        if local.shape[1] != GLOBAL and project == 'local':
            local = F.conv2d(local, state[f'projections.{i}.weight'])
        elif local.shape[1] != GLOBAL:
            bn = {key: state[f'projections.{i}.0.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias')}
            if model.training:
                mean, var = g.mean(0), ((g - g.mean(0))**2).mean(0)
            else:
                mean, var = bn['running_mean'], bn['running_var']
            g = ((g - mean) / (var + 1e-5).sqrt() * bn['weight'] + bn['bias']).clamp(min=0)
            g = F.linear(g, state[f'projections.{i}.3.weight'], state[f'projections.{i}.3.bias'])
        if compatibility == 'dp':
            scores = (local * g[:, :, None, None]).sum(1)
        else:
            scores = F.conv2d(local + g[:, :, None, None], state[f'scores.{i}.weight'],
                              state[f'scores.{i}.bias'] if bias else None)[:, 0]
        pooled, attention = pool(local, scores, normalization)
        results.append(pooled)
        maps.append(attention.view_as(scores))
    return tuple(results), tuple(maps)


def grid(model, inputs, normalization):
    """The docstring of GridAttentionNeck in plain PyTorch; the gate is enlarged first."""
    state, gate = dict(model.named_parameters()), inputs[-1]
    gate = gate if gate.dim() == 4 else gate[:, :, None, None]
    results, maps = [], []
    for i, local in enumerate(inputs[:3]):
        enlarged = F.interpolate(gate, tuple(local.shape[2:]), mode='bilinear')
        joined = torch.cat([local, enlarged], 1)
        weight = torch.cat([state[f'local_convs.{i}.weight'], state[f'gate_convs.{i}.weight']], 1)
        scores = F.conv2d(F.conv2d(joined, weight).relu(), state[f'scores.{i}.weight'], state[f'scores.{i}.bias'])
        pooled, attention = pool(local, scores[:, 0], normalization)
        results.append(pooled)
        maps.append(attention.view_as(scores[:, 0]))
    return tuple(results), tuple(maps)


# Values

@every_spatial
@pytest.mark.parametrize('kind', ['vector', 'map', 'pixel'])
@pytest.mark.parametrize('training', [False, True])
def test_spatial_is_plain_pytorch(options, kind, training):
    model, inputs = build(SpatialAttentionNeck, dropout=0., **options).train(training), features(kind)
    expected = spatial(model, inputs, **options)
    pooled, maps = run(model, inputs)
    assert type(pooled) is tuple
    torch.testing.assert_close((pooled, maps), expected, rtol=1e-10, atol=1e-12)
    widths = WIDTHS if options['project'] == 'global' else (GLOBAL, ) * 3
    assert model.out_channels == widths == tuple(each.shape[1] for each in pooled)
    assert [tuple(each.shape) for each in maps] == [(5, *size) for size in SIZES]
    if options['normalization'] == 'softmax':
        torch.testing.assert_close([each.sum((1, 2)) for each in maps], [torch.ones(5).double()] * 3)


@every_normalization
@pytest.mark.parametrize('kind', ['vector', 'map', 'pixel'])
def test_grid_is_plain_pytorch(normalization, kind):
    model, inputs = build(GridAttentionNeck, normalization=normalization), features(kind)
    pooled, maps = run(model, inputs)
    assert type(pooled) is tuple
    torch.testing.assert_close((pooled, maps), grid(model, inputs, normalization), rtol=1e-10, atol=1e-12)
    assert model.out_channels == WIDTHS == tuple(each.shape[1] for each in pooled)
    assert [tuple(each.shape) for each in maps] == [(5, *size) for size in SIZES]
    if normalization == 'softmax':
        torch.testing.assert_close([each.sum((1, 2)) for each in maps], [torch.ones(5).double()] * 3)


@pytest.mark.parametrize('neck, options', [(SpatialAttentionNeck, options) for options in SPATIAL] + [
    (GridAttentionNeck, dict(normalization='softmax')), (GridAttentionNeck, dict(normalization='sigmoid'))])
def test_the_last_local_feature_replaces_a_missing_global_one(neck, options):
    widths, sizes = (4, 5, 6), SIZES
    model, inputs = build(neck, widths, **options).eval(), features('none', widths=widths, sizes=sizes)
    assert len(inputs) == 3
    found = run(model, inputs)
    torch.testing.assert_close(found, run(model, (*inputs, inputs[-1])), rtol=0, atol=0)
    assert len(found[0]) == len(found[1]) == 3


def test_a_list_of_features():
    model, inputs = build(SpatialAttentionNeck).eval(), features()
    torch.testing.assert_close(model(list(inputs)), model(inputs), rtol=0, atol=0)


@pytest.mark.parametrize('options, scores, expected', [
    # <(1, 2), l + (2, 1)> of l = (1, 2) and (3, -1), and <l, (2, 1)>; the bias is 0.5.
    (dict(compatibility='pc'), [9.5, 5.5], 'softmax'),
    (dict(compatibility='pc', normalization='sigmoid'), [9.5, 5.5], 'sigmoid'),
    (dict(compatibility='dp'), [4., 5.], 'softmax'),
    (dict(compatibility='dp', normalization='sigmoid'), [4., 5.], 'sigmoid'),
])
def test_spatial_by_hand(options, scores, expected):
    model = SpatialAttentionNeck((2, ), 2, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor([1., 2.]).view(1, 2, 1, 1) if parameter.dim() == 4 else torch.tensor([0.5]))
    local = torch.tensor([[[[1., 3.]], [[2., -1.]]]], dtype=torch.float64)
    # A map, whose mean is (2, 1).
    descriptor = torch.tensor([[[[0.], [4.]], [[3.], [-1.]]]], dtype=torch.float64)
    pooled, maps = run(model, (local, descriptor))
    if expected == 'softmax':
        a, b = (math.exp(score) / sum(map(math.exp, scores)) for score in scores)
        vector = [a + 3 * b, 2 * a - b]
    else:
        a, b = (1 / (1 + math.exp(-score)) for score in scores)
        vector = [(a + 3 * b) / 2, (2 * a - b) / 2]
    assert maps[0][0, 0].tolist() == pytest.approx([a, b], rel=1e-12)
    assert pooled[0][0].tolist() == pytest.approx(vector, rel=1e-12)


@pytest.mark.parametrize('gate, scores', [
    # Bilinear between centres of positions: 0, 4 to 0, 1, 3, 4. The local feature adds 1; ReLU cuts off minus 2.
    ([[[[0., 4.]]]], [1.5, 2.5, 4.5, 5.5]),
    ([[[[-2., -2.]]]], [0.5] * 4),
    ([[[[3.]]]], [4.5] * 4),
    ([[3.]], [4.5] * 4),
    ([[[[0., 1., 2., 3.]]]], [1.5, 2.5, 3.5, 4.5]),
])
def test_grid_by_hand(gate, scores):
    model = GridAttentionNeck((1, ), 1, inter_channels=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1 if parameter.dim() == 4 else 0.5)
    pooled, maps = run(model, (torch.ones(1, 1, 1, 4), torch.tensor(gate)))
    # Sigmoids by default.
    expected = [1 / (1 + math.exp(-score)) for score in scores]
    assert maps[0].flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert pooled[0].item() == pytest.approx(sum(expected) / 4, rel=1e-6)


def test_defaults():
    model = SpatialAttentionNeck(WIDTHS, GLOBAL)
    explicit = SpatialAttentionNeck(WIDTHS, GLOBAL, 'pc', True, 'softmax', 'global', 0.5)
    assert repr(model) == repr(explicit)
    assert (model.compatibility, model.project) == ('pc', 'global')
    assert repr(GridAttentionNeck(WIDTHS, GLOBAL)) == repr(GridAttentionNeck(WIDTHS, GLOBAL, 256, 'sigmoid'))


def test_dropout_comes_before_the_linear_layer():
    options = dict(compatibility='dp', bias=False, normalization='sigmoid', project='global')
    model, inputs = build(SpatialAttentionNeck, dropout=1., **options).train(), features()
    pooled = model(inputs)
    for i, local in enumerate(inputs[:3]):
        # Full dropout leaves the bias. Without a projection there is no dropout.
        g = inputs[-1] if i == 1 else model.state_dict()[f'projections.{i}.3.bias'].expand(5, -1)
        expected, _ = pool(local, (local * g[:, :, None, None]).sum(1), 'sigmoid')
        torch.testing.assert_close(pooled[i], expected, rtol=1e-10, atol=1e-12)
    without = build(SpatialAttentionNeck, dropout=0., **options).eval()
    torch.testing.assert_close(model.eval()(inputs)[1:2], without(inputs)[1:2])


@pytest.mark.parametrize('neck, options', [
    *((SpatialAttentionNeck, dict(compatibility=c, normalization=n, project=p, dropout=0.))
      for c, n, p in itertools.product(['pc', 'dp'], ['softmax', 'sigmoid'], ['global', 'local'])),
    (GridAttentionNeck, dict(normalization='softmax')), (GridAttentionNeck, dict(normalization='sigmoid'))])
def test_gradcheck(neck, options):
    model = build(neck, (2, 3), 3, **options)
    inputs = [each.requires_grad_() for each in features('map', 3, (2, 3), 3, ((3, 2), (1, 2)))]
    assert torch.autograd.gradcheck(lambda *args: model(args), inputs)


# Parameters

@every_spatial
def test_spatial_parameters(options):
    expected, count = {}, 0
    if options['project'] == 'global':
        for i, width in ((0, 4), (2, 5)):
            base = f'projections.{i}'
            expected.update({f'{base}.0.weight': (6, ), f'{base}.0.bias': (6, ), f'{base}.3.weight': (width, 6),
                             f'{base}.3.bias': (width, )})
        # BN of 6, and 6 to 4 and to 5.
        count += 12 + 28 + 12 + 35
        scored = WIDTHS
    else:
        expected.update({'projections.0.weight': (6, 4, 1, 1), 'projections.2.weight': (6, 5, 1, 1)})
        count += 24 + 30
        scored = (6, 6, 6)
    if options['compatibility'] == 'pc':
        for i, width in enumerate(scored):
            expected[f'scores.{i}.weight'] = (1, width, 1, 1)
            count += width
            if options['bias']:
                expected[f'scores.{i}.bias'] = (1, )
                count += 1
    model = SpatialAttentionNeck(WIDTHS, GLOBAL, **options)
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize('widths, options, expected', [
    # att3 of VGG: BN of 512, 512 to 256, and three scores with biases.
    ((256, 512, 512), {}, 1024 + 512 * 256 + 256 + 256 + 512 + 512 + 3),
    ((256, 512, 512), dict(project='local', bias=False), 256 * 512 + 3 * 512),
    ((512, 512), dict(compatibility='dp'), 0),
])
def test_spatial_parameters_of_the_paper(widths, options, expected):
    assert sum(p.numel() for p in SpatialAttentionNeck(widths, 512, **options).parameters()) == expected


@pytest.mark.parametrize('inter', [1, 7, None])
def test_grid_parameters(inter):
    options, inter = ({}, 256) if inter is None else (dict(inter_channels=inter), inter)
    model = GridAttentionNeck(WIDTHS, GLOBAL, **options)
    expected = {}
    for i, width in enumerate(WIDTHS):
        expected.update({f'local_convs.{i}.weight': (inter, width, 1, 1), f'gate_convs.{i}.weight': (inter, 6, 1, 1),
                         f'scores.{i}.weight': (1, inter, 1, 1), f'scores.{i}.bias': (1, )})
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == expected
    assert sum(p.numel() for p in model.parameters()) == inter * (4 + 6 + 5) + 3 * inter * 6 + 3 * (inter + 1)


def assert_normal(weight, std):
    """Five standard errors; normal, not uniform: a uniform one never passes 1.74 std."""
    n = weight.numel()
    assert abs(weight.mean().item()) < 5 * std / math.sqrt(n)
    assert abs(weight.std().item() - std) < 5 * std / math.sqrt(2 * n)
    assert weight.abs().max() > 3 * std


@pytest.mark.parametrize('convert', [lambda model: model, convert_sync_batchnorm], ids=['bn', 'sync'])
def test_spatial_initialisation_as_the_authors(convert):
    torch.manual_seed(0)
    config = Config.fromfile(Path(__file__).parents[2] / 'configs' / 'ltpa' / 'vgg-att-pc_1xb128_cifar10.py')
    model = SpatialAttentionNeck((2000, ), 300, init_cfg=config.model.neck.init_cfg)
    bn, linear = model.projections[0][0], model.projections[0][3]
    before = [value.clone() for value in linear.parameters()]
    with torch.no_grad():
        bn.bias.fill_(7)
        model.scores[0].bias.fill_(7)
    model = convert(model)
    model.init_weights()
    # The fan out of the scores is one channel.
    assert_normal(model.scores[0].weight, math.sqrt(2))
    assert (model.scores[0].bias == 0).all()
    bn, linear = model.projections[0][0], model.projections[0][3]
    assert 0 <= bn.weight.min() < 0.05 < 0.95 < bn.weight.max() < 1
    assert bn.weight.mean().item() == pytest.approx(0.5, abs=5 / math.sqrt(12 * 300))
    assert (bn.bias == 0).all()
    # As torch initialises linear layers: uniform up to 1 / sqrt(width).
    assert all(torch.equal(*pair) for pair in zip(linear.parameters(), before))
    assert 0.95 / math.sqrt(300) < linear.weight.abs().max() <= 1 / math.sqrt(300)


def test_spatial_initialisation():
    torch.manual_seed(0)
    model = SpatialAttentionNeck((100, 2000), 2000, project='local')
    model.init_weights()
    # Xavier-uniform, of gain sqrt(2): up to sqrt(2) * sqrt(6 / (fan in + fan out)).
    for weight, fans in ((model.projections[0].weight, 100 + 2000), (model.scores[1].weight, 2000 + 1)):
        bound = math.sqrt(2 * 6 / fans)
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(weight.mean().item()) < 5 * bound / math.sqrt(3 * weight.numel())


def test_grid_initialisation():
    torch.manual_seed(0)
    model = GridAttentionNeck((100, ), 50, inter_channels=2000)
    with torch.no_grad():
        model.scores[0].bias.fill_(7)
    model.init_weights()
    assert_normal(model.local_convs[0].weight, math.sqrt(2 / 100))
    assert_normal(model.gate_convs[0].weight, math.sqrt(2 / 50))
    assert_normal(model.scores[0].weight, math.sqrt(2 / 2000))
    assert (model.scores[0].bias == 0).all()


@every_neck
def test_initialisation_can_be_chosen(neck):
    model = neck((4, ), 6, init_cfg=dict(type='Constant', layer='Conv2d', val=0.25))
    model.init_weights()
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert convs and all((conv.weight == 0.25).all() for conv in convs)


# Errors

@every_neck
@pytest.mark.parametrize('shapes', [
    # Too few, too many.
    [(2, 4, 6, 5), (2, 6, 3, 4)],
    [(2, 4, 6, 5), (2, 6, 3, 4), (2, 5, 2, 3), (2, 6), (2, 6)],
    # Another width: of a local feature, of two that are swapped, of the global one.
    [(2, 4, 6, 5), (2, 7, 3, 4), (2, 5, 2, 3), (2, 6)],
    [(2, 6, 3, 4), (2, 4, 6, 5), (2, 5, 2, 3), (2, 6)],
    [(2, 4, 6, 5), (2, 6, 3, 4), (2, 5, 2, 3), (2, 5)],
    # No global one, and the last local one is of another width.
    [(2, 4, 6, 5), (2, 6, 3, 4), (2, 5, 2, 3)],
    # A local feature that has been pooled.
    [(2, 4), (2, 6, 3, 4), (2, 5, 2, 3), (2, 6)],
])
def test_refuses_other_features(neck, shapes):
    with pytest.raises(ConfigError) as error:
        neck(WIDTHS, GLOBAL)(tuple(torch.ones(shape) for shape in shapes))
    for part in (neck.__name__, '(N, C, H, W)', str(WIDTHS), f'{GLOBAL} channels', f'got {shapes}', 'out_indices'):
        assert part in str(error.value)


@every_neck
def test_refuses_vectors_alone(neck):
    with pytest.raises(ConfigError, match=rf'{neck.__name__}.*\(N, C, H, W\).*\(2, 6\)'):
        neck((6, ), 6)((torch.ones(2, 6), ))


@pytest.mark.parametrize('neck, options, message', [
    *((neck, dict(in_channels=widths), rf'in_channels of {neck.__name__}.*{re.escape(repr(widths))}')
      for neck in (SpatialAttentionNeck, GridAttentionNeck)
      for widths in (4, True, (), [], None, (4, 0), (-1, 4), (4., ), 'ab')),
    *((neck, dict(global_channels=width),
       f'global_channels of {neck.__name__}.*at least 1.*{re.escape(repr(width))}')
      for neck in (SpatialAttentionNeck, GridAttentionNeck) for width in (0, -6, (4, ))),
    *((neck, dict(normalization='tanh'), r"normalization.*\('softmax', 'sigmoid'\).*'tanh'")
      for neck in (SpatialAttentionNeck, GridAttentionNeck)),
    (SpatialAttentionNeck, dict(compatibility='PC'),
     r"compatibility.*SpatialAttentionNeck.*\('pc', 'dp'\).*'PC'"),
    (SpatialAttentionNeck, dict(project='both'),
     r"project.*SpatialAttentionNeck.*\('global', 'local'\).*'both'"),
    (GridAttentionNeck, dict(inter_channels=0), r'inter_channels of GridAttentionNeck.*at least 1.*\b0\b'),
])
def test_refuses_other_options(neck, options, message):
    with pytest.raises(UserError, match=message):
        neck(**{**dict(in_channels=WIDTHS, global_channels=GLOBAL), **options})


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match='score'):
        BaseAttentionNeck((4, ), 6, 'softmax')


def test_a_subclass_implements_only_the_scores():

    class Brightness(BaseAttentionNeck):

        def score(self, level, local, descriptor):
            return 2 * local, local.sum(1) * (level + 1)

    model, inputs = Brightness(WIDTHS, GLOBAL, 'softmax'), features()
    pooled, maps = run(model, inputs)
    for level, local in enumerate(inputs[:3]):
        vector, attention = pool(2 * local, local.sum(1) * (level + 1), 'softmax')
        torch.testing.assert_close((pooled[level], maps[level].flatten(1)), (vector, attention), rtol=1e-10, atol=0)


# Other types and layouts

@pytest.mark.parametrize('neck, options', [
    *((SpatialAttentionNeck, dict(compatibility=c, project=p, dropout=0.))
      for c, p in itertools.product(['pc', 'dp'], ['global', 'local'])), (GridAttentionNeck, {})])
@pytest.mark.parametrize('training', [False, True])
def test_channels_last(neck, options, training):
    model, inputs = build(neck, **options).train(training), features('map')
    expected = run(model, inputs)
    model = build(neck, **options).train(training).to(memory_format=torch.channels_last)
    inputs = tuple(each.contiguous(memory_format=torch.channels_last) for each in inputs)
    assert not inputs[0].is_contiguous()
    torch.testing.assert_close(run(model, inputs), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('neck, options', [
    *((SpatialAttentionNeck, options) for options in SPATIAL if options['bias']),
    (GridAttentionNeck, dict(normalization='softmax')), (GridAttentionNeck, dict(normalization='sigmoid'))])
def test_bfloat16_autocast(neck, options):
    model, inputs = build(neck, **options).float().eval(), features('map', dtype=torch.float32)
    # Smaller scores, so that the softmax does not amplify their rounding.
    inputs = tuple(each / 4 for each in inputs)
    expected = run(model, inputs)
    with torch.autocast('cpu', torch.bfloat16):
        found = run(model, inputs)
    assert all(each.dtype == torch.float32 for each in found[1])
    for value, reference in zip((*found[0], *found[1]), (*expected[0], *expected[1])):
        assert (value.float() - reference).norm() < 0.05 * reference.norm()


# In a classifier

WRN = dict(type='mmat.WideResNet', depth=10, out_indices=(1, 2))
# With zero-initialised residual branches, their first convolutions would have no gradient.
RESNET = dict(type='mmpretrain.ResNet', depth=18, out_indices=(2, 3), zero_init_residual=False)
# Backbone, size of images, widths of the local features, width of the global one, sizes of the maps. The last local
# feature also serves as the global one.
BACKBONES = [(WRN, 16, (32, ), 64, [(8, 8)]), (WRN, 16, (32, 64), 64, [(8, 8), (4, 4)]),
             (RESNET, 64, (256, ), 512, [(4, 4)]), (RESNET, 64, (256, 512), 512, [(4, 4), (2, 2)])]
NECKS = [dict(type='mmat.SpatialAttentionNeck', compatibility=c, normalization=n, project=p, dropout=0.)
         for c, n, p in itertools.product(['pc', 'dp'], ['softmax', 'sigmoid'], ['global', 'local'])]
NECKS += [dict(type='mmat.GridAttentionNeck', inter_channels=8, normalization=n) for n in ('softmax', 'sigmoid')]


def classifier(backbone, neck, widths, width):
    vectors = (width, ) * len(widths) if neck.get('project') == 'local' else widths
    model = MODELS.build(dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(type='mmat.BatchPreprocessor', mean=[0.] * 3, std=[1.] * 3),
        backbone=dict(backbone), neck=dict(neck, in_channels=widths, global_channels=width),
        head=dict(type='mmat.ConcatClsHead', num_classes=10, in_channels=vectors, norm=False, dropout=0.)))
    torch.manual_seed(0)
    model.init_weights()
    with torch.no_grad():
        for parameter in model.neck.parameters():
            # The initial scores of hundreds of channels saturate the attention.
            parameter *= 0.1
    # float64 distinguishes zero gradients from rounding.
    return model.double()


def unmoved(neck, name):
    """Parameters of the neck whose gradients are zero, as a softmax over positions does not see constants."""
    if neck['normalization'] == 'sigmoid':
        return False
    # Biases of scores, and with 'pc' the whole global branch.
    return re.fullmatch(r'scores\.\d\.bias', name) or (
        neck.get('compatibility') == 'pc' and neck['project'] == 'global' and name.startswith('projections.'))


@pytest.mark.parametrize('backbone, size, widths, width, sizes, neck', [
    *((*BACKBONES[i], neck) for i in (0, 1) for neck in NECKS),
    # Only one of each, because they are slow: without and with a trained global branch, and gates.
    (*BACKBONES[2], NECKS[0]), (*BACKBONES[3], NECKS[2]), (*BACKBONES[3], NECKS[9]),
])
def test_a_classifier_learns(backbone, size, widths, width, sizes, neck):
    model = classifier(backbone, neck, widths, width).train()
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    paths = [find_layer(model, f'neck.maps.{i}') for i in range(len(widths))]
    assert paths == [f'neck.maps.{i}' for i in range(len(widths))]
    assert all(gives_attention(model, path) for path in paths)
    with tap(model, paths) as taps:
        loss = model(images, BatchedSamples(torch.arange(4)), mode='loss')['loss']
    assert [tuple(taps[path].shape) for path in paths] == [(4, *each) for each in sizes]
    for path in paths:
        assert 0 < taps[path].min() and taps[path].max() < 1
        if neck['normalization'] == 'softmax':
            torch.testing.assert_close(taps[path].sum((1, 2)), torch.ones(4).double())
    loss.backward()
    for name, parameter in model.named_parameters():
        # With 'pc' and softmax, layers that serve only the global feature are not trained: here the last stage.
        blind = (neck['normalization'] == 'softmax' and neck.get('compatibility') == 'pc' and len(widths) == 1
                 and name.startswith(('backbone.group2', 'backbone.bn.', 'backbone.layer4')))
        largest = parameter.grad.abs().max()
        if blind or name.startswith('neck.') and unmoved(neck, name[len('neck.'):]):
            assert largest < 1e-12, name
        else:
            assert largest > 1e-7, name


def test_the_maps_are_modules_that_declare_attention():
    model = SpatialAttentionNeck(WIDTHS, GLOBAL)
    assert len(model.maps) == 3 and all(isinstance(each, AttentionWeights) for each in model.maps)
    assert all(each.gives_attention for each in model.maps)
    assert repr(model.maps[0]) == "AttentionWeights(normalization='softmax')"
    assert not gives_attention(model, 'scores.0')


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmat'])
@every_neck
def test_builds_from_any_scope(scope, neck):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type=f'mmat.{neck.__name__}', in_channels=[4, 6, 5], global_channels=6))
    assert type(model) is neck and model.out_channels == WIDTHS
