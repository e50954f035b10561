import pytest
import torch

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, LayerError, UserError
from mmat.models import ActivationATHead
from mmat.models.at_heads import NetworkOutputs
from mmat.models.at_heads import activation_at_head as module
from mmat.registry import MODELS

LAYERS = ['backbone.group0', 'backbone.group1', 'backbone.group2']


def plain_loss(student, teacher, beta, form, p, reduction):
    """Compute the total loss from the features of both networks' layers in plain PyTorch."""
    total = 0
    for pair in zip(student, teacher):
        maps = []
        for features in pair:
            powers = features.abs()**p
            powers = powers.sum(1) if reduction == 'sum' else powers.max(1).values
            maps.append(powers.flatten(1) / powers.flatten(1).norm(dim=1, keepdim=True))
        squares = (maps[0] - maps[1])**2
        total = total + (beta * squares.mean() if form == 'code' else beta / 2 * squares.sum(1).sqrt().mean())
    return total


def features(channels, requires_grad=False):
    torch.manual_seed(channels)
    return [torch.randn(4, channels, size, size, dtype=torch.float64, requires_grad=requires_grad)
            for size in (8, 4, 2)]


def outputs(tensors, layers=LAYERS):
    return NetworkOutputs(features=dict(zip(layers, tensors)))


def total(log):
    # mmengine sums every key that contains 'loss'.
    return sum(value for key, value in log.items() if 'loss' in key)


@pytest.mark.parametrize('reduction', ['sum', 'max'])
@pytest.mark.parametrize('p', [1, 2, 3, 4])
@pytest.mark.parametrize('form, beta', [('code', 1e3), ('code', 0.5), ('paper', 0.1), ('paper', 3)])
def test_total_and_gradient_match_plain_pytorch(form, beta, p, reduction):
    student, teacher = features(16, requires_grad=True), features(32)
    head = ActivationATHead(list(zip(LAYERS, LAYERS)), weight=beta, form=form, p=p, reduction=reduction)
    result = total(head(outputs(student), outputs(teacher)))
    expected = plain_loss(student, teacher, beta, form, p, reduction)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(torch.autograd.grad(result, student), torch.autograd.grad(expected, student)):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_defaults_are_the_authors_code():
    student, teacher = features(16), features(32)
    log = ActivationATHead(list(zip(LAYERS, LAYERS)))(outputs(student), outputs(teacher))
    expected = plain_loss(student, teacher, 1e3, 'code', 2, 'sum')
    torch.testing.assert_close(total(log), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize('form, factor', [('code', 8), ('paper', 4)])
def test_each_layer_is_logged_raw_and_weighted(form, factor):
    student, teacher = features(16, requires_grad=True), features(32)
    log = ActivationATHead(list(zip(LAYERS, LAYERS)), weight=8, form=form)(outputs(student), outputs(teacher))
    assert list(log) == [key for layer in LAYERS for key in (f'loss_at.{layer}', f'at.{layer}')]
    for layer, s, t in zip(LAYERS, student, teacher):
        raw = plain_loss([s], [t], 1 if form == 'code' else 2, form, 2, 'sum')
        torch.testing.assert_close(log[f'at.{layer}'], raw.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(log[f'loss_at.{layer}'], factor * raw, rtol=1e-12, atol=0)
        assert not log[f'at.{layer}'].requires_grad


def test_a_student_layer_paired_with_two_teacher_layers_logs_both():
    student, teacher = features(16), features(32)
    pairs = [(LAYERS[0], LAYERS[0]), (LAYERS[0], LAYERS[1])]
    log = ActivationATHead(pairs, weight=5)(outputs(student), outputs(teacher))
    assert set(log) == {f'{kind}at.backbone.group0-backbone.group{t}' for t in (0, 1) for kind in ('loss_', '')}
    same_size = plain_loss(student[:1], teacher[:1], 5, 'code', 2, 'sum')
    torch.testing.assert_close(log['loss_at.backbone.group0-backbone.group0'], same_size, rtol=1e-12, atol=0)
    assert total(log) > same_size


def test_the_same_pair_twice_counts_twice():
    student, teacher = features(16), features(32)
    log = ActivationATHead([(LAYERS[0], LAYERS[0])] * 2, weight=5)(outputs(student), outputs(teacher))
    expected = plain_loss(student[:1] * 2, teacher[:1] * 2, 5, 'code', 2, 'sum')
    torch.testing.assert_close(total(log), expected, rtol=1e-12, atol=0)


def test_a_layer_named_loss_is_not_summed_twice():
    student, teacher = features(16)[:1], features(32)[:1]
    log = ActivationATHead([('lossy', 'lossy')], weight=5)(outputs(student, ['lossy']), outputs(teacher, ['lossy']))
    torch.testing.assert_close(total(log), plain_loss(student, teacher, 5, 'code', 2, 'sum'), rtol=1e-12, atol=0)


def test_with_weight_0_the_loss_is_logged_and_has_no_gradient():
    student, teacher = features(16, requires_grad=True), features(32)
    log = ActivationATHead(list(zip(LAYERS, LAYERS)), weight=0)(outputs(student), outputs(teacher))
    assert total(log).item() == 0 and not total(log).requires_grad
    assert log['at.backbone.group0'] > 0


def test_unequal_sizes():
    student, teacher = outputs(features(16)[:1]), outputs(features(32)[1:2])
    pairs = [(LAYERS[0], LAYERS[0])]
    assert total(ActivationATHead(pairs)(student, teacher)) > 0
    with pytest.raises(UserError, match=r'\(8, 8\).*\(4, 4\).*size_mismatch'):
        ActivationATHead(pairs, size_mismatch='error')(student, teacher)


# One map for each layer

def test_the_teacher_is_reduced_to_a_map_for_each_pair():
    teacher = features(32)
    pairs = [(LAYERS[0], LAYERS[2]), (LAYERS[1], LAYERS[0]), (LAYERS[2], LAYERS[2])]
    maps = ActivationATHead(pairs).reduce_teacher(outputs(teacher))
    assert isinstance(maps, list) and len(maps) == 3
    for value, index in zip(maps, (2, 0, 2)):
        torch.testing.assert_close(value, teacher[index].square().sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize('pairs, student, teacher', [
    ([(0, 0), (1, 1), (2, 2)], 3, 3),
    # A layer in several pairs.
    ([(0, 0), (0, 1), (0, 2)], 1, 3),
    ([(0, 2), (1, 2), (2, 2)], 3, 1),
])
def test_the_map_of_each_layer_is_computed_once_in_a_step(pairs, student, teacher, distiller_config, monkeypatch):
    distiller = MODELS.build(distiller_config(head=dict(pairs=pairs)))
    widths = []
    as_attention = module.as_attention

    def counted(features, *args):
        widths.append(features.shape[1])
        return as_attention(features, *args)

    monkeypatch.setattr(module, 'as_attention', counted)
    log = distiller(torch.rand(2, 3, 8, 8), BatchedSamples(torch.tensor([1, 2])), mode='loss')
    assert len([key for key in log if key.startswith('loss_at')]) == 3
    # Widths of WRN-10-2, the teacher, which runs first, and of WRN-10-1.
    expected = [(32, 64, 128)[layer] for layer in dict.fromkeys(layer for _, layer in pairs)]
    expected += [(16, 32, 64)[layer] for layer in dict.fromkeys(layer for layer, _ in pairs)]
    assert widths == expected and len(widths) == student + teacher


# Layers

@pytest.mark.parametrize('index, path', [(0, 'backbone.group0'), (1, 'backbone.group1'), (-1, 'backbone.group2')])
def test_stage_index_and_module_path_name_the_same_layer(index, path, network_config):
    network = MODELS.build(network_config())
    head = ActivationATHead([(index, index), (path, path)])
    head.resolve_student(network)
    head.resolve_teacher(network)
    assert head.student_paths == head.teacher_paths == [path, path]
    # As configured.
    assert head.student_layers == head.teacher_layers == [index, path]


@pytest.mark.parametrize('layer, parts', [
    ('backbone.gruop1', ["'backbone.gruop1'", "'backbone.group1'"]),
    ('group1', ["'group1'", "'backbone.group1'"]),
    ('backbone.group1.block2', ["'backbone.group1.block2'", "'backbone.group1.block0'"]),
    (3, ['stage 3', 'WideResNet', '0 to 2']),
    (-4, ['stage -4', 'WideResNet', '0 to 2']),
])
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_an_unknown_layer_is_refused(side, layer, parts, network_config):
    head = ActivationATHead([(0, 0), (layer, layer)])
    with pytest.raises(LayerError, match=side) as error:
        getattr(head, f'resolve_{side}')(MODELS.build(network_config()))
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize('layer', [1.0, None, True, ('backbone', 'group0')])
def test_a_layer_of_another_type_is_refused(layer, network_config):
    with pytest.raises(ConfigError) as error:
        ActivationATHead([(layer, 0)]).resolve_student(MODELS.build(network_config()))
    assert repr(layer) in str(error.value)


# Options

PAIR = '(student_layer, teacher_layer)'


@pytest.mark.parametrize('options, parts', [
    # Lists of unequal length, zipped or not.
    (dict(pairs=[(0, 0), (1, )]), [PAIR, 'got (1,)']),
    (dict(pairs=[(0, 1, 2)]), [PAIR, 'got (0, 1, 2)']),
    (dict(pairs=[[0, 1, 2], [0, 1]]), [PAIR, 'got [0, 1, 2]']),
    (dict(pairs=[0, 1, 2]), [PAIR, 'got 0 ']),
    # A string of two letters is no pair.
    (dict(pairs=['ab']), [PAIR, "got 'ab'"]),
    (dict(pairs='backbone'), [PAIR, "got 'backbone'"]),
    (dict(pairs=[]), [PAIR, 'got []']),
    (dict(pairs=dict(a='b')), [PAIR, "got {'a': 'b'}"]),
    (dict(weight=-1), ['weight', 'got -1']),
    (dict(weight=float('nan')), ['weight', 'got nan']),
    (dict(form='papers'), ['form', "'code', 'paper'", "got 'papers'"]),
    (dict(p=0.5), ['p of an attention map', 'got 0.5']),
    (dict(reduction='mean'), ['reduction', "'sum', 'max'", "got 'mean'"]),
    (dict(size_mismatch='resize'), ['size_mismatch', "'pool', 'error'", "got 'resize'"]),
    (dict(name='at_loss'), ["'loss'", "got 'at_loss'"]),
])
def test_bad_options_are_refused(options, parts):
    # The functions of mmat.attention raise UserError for their own options.
    kind = UserError if {*options} & {'form', 'p', 'reduction', 'size_mismatch'} else ConfigError
    with pytest.raises(kind) as error:
        ActivationATHead(**{'pairs': [(0, 0)], **options})
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize('type', ['mmat.ActivationATHead', 'mmat.FullActivationHead'])
def test_pairs_must_be_given(type):
    with pytest.raises(ConfigError, match=r'pairs=\[\(student_layer, teacher_layer\)'):
        MODELS.build(dict(type=type, pairs=None))


@pytest.mark.parametrize('p', ['2', [2], float('inf'), None])
def test_a_power_must_be_a_finite_number(p):
    with pytest.raises(UserError) as error:
        ActivationATHead([(0, 0)], p=p)
    assert f'got {p!r}' in str(error.value)


@pytest.mark.parametrize('name', ['', 5, None])
def test_a_name_must_be_a_non_empty_string(name):
    with pytest.raises(ConfigError) as error:
        ActivationATHead([(0, 0)], name=name)
    assert f'got {name!r}' in str(error.value)
