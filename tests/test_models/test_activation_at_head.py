import pytest
import torch

from mmat.models import ActivationATHead
from mmat.models.at_heads import NetworkOutputs
from mmat.registry import MODELS

LAYERS = ['backbone.group0', 'backbone.group1', 'backbone.group2']


def plain_loss(student, teacher, beta, form, p, reduction):
    """The whole method in plain PyTorch: features of the student's and the teacher's layers to the total loss."""
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
    # As mmengine: every key that contains 'loss' is summed.
    return sum(value for key, value in log.items() if 'loss' in key)


@pytest.mark.parametrize('reduction', ['sum', 'max'])
@pytest.mark.parametrize('p', [1, 2, 3, 4])
@pytest.mark.parametrize('form, beta', [('code', 1e3), ('code', 0.5), ('paper', 0.1), ('paper', 3)])
def test_total_and_gradient_are_those_of_plain_pytorch(form, beta, p, reduction):
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


def test_a_student_layer_under_two_teacher_layers_logs_both():
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


def test_without_a_weight_it_is_logged_and_has_no_gradient():
    student, teacher = features(16, requires_grad=True), features(32)
    log = ActivationATHead(list(zip(LAYERS, LAYERS)), weight=0)(outputs(student), outputs(teacher))
    assert total(log).item() == 0 and not total(log).requires_grad
    assert log['at.backbone.group0'] > 0


def test_unequal_sizes():
    student, teacher = outputs(features(16)[:1]), outputs(features(32)[1:2])
    pairs = [(LAYERS[0], LAYERS[0])]
    assert total(ActivationATHead(pairs)(student, teacher)) > 0
    with pytest.raises(ValueError, match=r'\(8, 8\).*\(4, 4\).*differ in size'):
        ActivationATHead(pairs, size_mismatch='error')(student, teacher)


# Layers

@pytest.mark.parametrize('index, path', [(0, 'backbone.group0'), (1, 'backbone.group1'), (-1, 'backbone.group2')])
def test_stage_index_and_module_path_name_the_same_layer(index, path, network_config):
    network = MODELS.build(network_config())
    head = ActivationATHead([(index, index), (path, path)])
    head.resolve_student(network)
    head.resolve_teacher(network)
    assert head.student_layers == head.teacher_layers == [path, path]


@pytest.mark.parametrize('layer, message', [
    ('backbone.gruop1', r"has no layer 'backbone.gruop1'; the closest are .*'backbone.group1'"),
    ('group1', r"no layer 'group1'; the closest are .*'backbone.group1'"),
    ('backbone.group1.block2', r"the closest are .*'backbone.group1.block0'"),
    (3, r'has no stage 3: its WideResNet has 3 stages \(0 to 2\)'),
    (-4, 'has no stage -4'),
])
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_layer_that_is_not_there_is_refused(side, layer, message, network_config):
    head = ActivationATHead([(0, 0), (layer, layer)])
    with pytest.raises(ValueError, match=f'{side}.*{message}'):
        getattr(head, f'resolve_{side}')(MODELS.build(network_config()))


@pytest.mark.parametrize('layer', [1.0, None, True, ('backbone', 'group0')])
def test_what_is_no_layer_is_refused(layer, network_config):
    with pytest.raises(TypeError, match='a layer is a stage index or a module path, got'):
        ActivationATHead([(layer, 0)]).resolve_student(MODELS.build(network_config()))


# Options

@pytest.mark.parametrize('options, message', [
    # Lists of unequal length, zipped or not.
    (dict(pairs=[(0, 0), (1, )]), r'every student layer needs one teacher layer.*got \(1,\)'),
    (dict(pairs=[(0, 1, 2)]), r'every student layer needs one teacher layer.*got \(0, 1, 2\)'),
    (dict(pairs=[[0, 1, 2], [0, 1]]), 'every student layer needs one teacher layer'),
    (dict(pairs=[0, 1, 2]), 'got 0 in it'),
    # Two letters would pass for a couple.
    (dict(pairs=['ab']), "got 'ab' in it"),
    (dict(pairs='backbone'), "got 'backbone'"),
    (dict(pairs=[]), r'pairs must be a list.*got \[\]'),
    (dict(pairs=dict(a='b')), 'pairs must be a list'),
    (dict(weight=-1), 'weight of a transfer head must be at least 0, got -1'),
    (dict(weight=float('nan')), 'got nan'),
    (dict(form='papers'), "form .*'code', 'paper'.*got 'papers'"),
    (dict(p=0.5), 'p of an attention map must be a number >= 1, got 0.5'),
    (dict(reduction='mean'), "reduction .*'sum', 'max'.*got 'mean'"),
    (dict(size_mismatch='resize'), "size_mismatch .*'pool', 'error'.*got 'resize'"),
    (dict(name='at_loss'), "must not contain 'loss', got 'at_loss'"),
])
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ActivationATHead(**{'pairs': [(0, 0)], **options})


@pytest.mark.parametrize('type', ['mmat.ActivationATHead', 'mmat.FullActivationHead'])
def test_pairs_must_be_given(type):
    with pytest.raises(ValueError, match='needs pairs of layers'):
        MODELS.build(dict(type=type, pairs=None))


@pytest.mark.parametrize('p', ['2', [2], float('inf'), None])
def test_a_power_is_a_number(p):
    with pytest.raises(ValueError, match='p of an attention map must be a number >= 1'):
        ActivationATHead([(0, 0)], p=p)


@pytest.mark.parametrize('name', ['', 5, None])
def test_a_name_is_a_word(name):
    with pytest.raises(ValueError, match='the name of a transfer head must be a word'):
        ActivationATHead([(0, 0)], name=name)
