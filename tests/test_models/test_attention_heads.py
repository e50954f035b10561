import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import convert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError
from mmat.models import ConcatClsHead, IndependentClsHead, LinearClsHead
from mmat.registry import MODELS

# Distinct widths, so that swapped levels show.
WIDTHS = (4, 6, 5)
CLASSES = 7
HEADS = [(ConcatClsHead, {}), (IndependentClsHead, dict(combine='average')), (IndependentClsHead, dict(combine='sum'))]

every_head = pytest.mark.parametrize('head, options', HEADS, ids=['concat', 'average', 'sum'])


def build(head, widths=WIDTHS, classes=CLASSES, **options):
    """Build a head with arbitrary parameters in float64."""
    model = head(num_classes=classes, in_channels=widths, **options).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.3, 1.3)
    return model


def vectors(n=9, widths=WIDTHS, dtype=torch.float64):
    torch.manual_seed(1)
    return tuple(torch.randn(n, width, dtype=dtype) for width in widths)


def labels(n=9):
    return torch.arange(n) * 3 % CLASSES


def samples(values):
    return [DataSample().set_gt_label(int(value)) for value in values]


def transformed(model, feats, training, norm=True):
    """BN and ReLU of each vector separately, with its share of the parameters."""
    results, start = [], 0
    for feat in feats:
        own = slice(start, start + feat.shape[1])
        start += feat.shape[1]
        if norm:
            bn = model.transform[0]
            mean = feat.mean(0) if training else bn.running_mean[own]
            var = ((feat - feat.mean(0))**2).mean(0) if training else bn.running_var[own]
            feat = ((feat - mean) / (var + 1e-5).sqrt() * bn.weight[own] + bn.bias[own]).clamp(min=0)
        results.append(feat)
    return results


def levels(model, feats, training, norm=True):
    """Logits of each level of an IndependentClsHead."""
    state = dict(model.named_parameters())
    return [feat @ state[f'fc.{i}.weight'].T + state[f'fc.{i}.bias']
            for i, feat in enumerate(transformed(model, feats, training, norm))]


# Values

@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('norm', [False, True])
def test_concat_is_plain_pytorch(training, norm):
    model, feats = build(ConcatClsHead, norm=norm, dropout=0.).train(training), vectors()
    joined = torch.cat(transformed(model, feats, training, norm), 1)
    torch.testing.assert_close(model.pre_logits(feats), joined, rtol=1e-10, atol=1e-12)
    # A new model, because training has updated the running statistics.
    model, joined = build(ConcatClsHead, norm=norm, dropout=0.).train(training), joined.detach()
    expected = joined @ model.fc.weight.T + model.fc.bias
    torch.testing.assert_close(model(feats), expected, rtol=1e-10, atol=1e-12)
    loss = -expected.log_softmax(1)[range(9), labels()].mean()
    torch.testing.assert_close(model.loss(feats, BatchedSamples(labels()))['loss'], loss, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('norm', [False, True])
def test_average_is_the_mean_probability(training, norm):
    model, feats = build(IndependentClsHead, norm=norm, dropout=0.).train(training), vectors()
    with torch.no_grad():
        probabilities = sum(logits.softmax(1) for logits in levels(model, feats, training, norm)) / 3
        logits = model(feats)
    torch.testing.assert_close(logits.softmax(1), probabilities, rtol=1e-10, atol=1e-14)
    # They are logarithms of probabilities, not only up to a constant.
    torch.testing.assert_close(logits.exp(), probabilities, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize('norm', [False, True])
def test_average_has_the_loss_and_gradients_of_the_mean_probability(norm):
    model, feats = build(IndependentClsHead, norm=norm, dropout=0.), vectors()
    probabilities = sum(logits.softmax(1) for logits in levels(model, feats, True, norm)) / 3
    expected = -probabilities[range(9), labels()].log().mean()
    loss = model.loss(feats, BatchedSamples(labels()))['loss']
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    parameters = list(model.parameters())
    for found, gradient in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)):
        assert found.abs().sum() > 0
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('norm', [False, True])
def test_sum_adds_logits_which_adds_log_probabilities(training, norm):
    model, feats = build(IndependentClsHead, combine='sum', norm=norm, dropout=0.).train(training), vectors()
    logits = levels(model, feats, training, norm)
    result = model(feats)
    torch.testing.assert_close(result, sum(logits), rtol=1e-10, atol=1e-12)
    # They differ by a constant for each sample, which cross-entropy does not see.
    log_probabilities = sum(each.log_softmax(1) for each in logits)
    torch.testing.assert_close(F.cross_entropy(result, labels()), F.cross_entropy(log_probabilities, labels()))


@pytest.mark.parametrize('combine, expected', [
    # Means of (3/4, 1/4) and (1/5, 4/5).
    ('average', [0.475, 0.525]),
    # Odds 3 : 1 and 1 : 4, multiplied.
    ('sum', [3 / 7, 4 / 7]),
])
def test_golden_values(combine, expected):
    head = IndependentClsHead(num_classes=2, in_channels=(2, 2), combine=combine, norm=False, dropout=0.)
    with torch.no_grad():
        for fc in head.fc:
            fc.weight.copy_(torch.eye(2))
            fc.bias.zero_()
    feats = torch.tensor([[math.log(3), 0.]]), torch.tensor([[0., math.log(4)]])
    assert head(feats).softmax(1)[0].tolist() == pytest.approx(expected, rel=1e-6)
    for label in (0, 1):
        loss = head.loss(feats, samples([label]))['loss']
        assert loss.item() == pytest.approx(-math.log(expected[label]), rel=1e-6)


def test_the_combination_is_the_average_by_default():
    assert IndependentClsHead(num_classes=2, in_channels=(3, )).combine == 'average'


@pytest.mark.parametrize('scores, expected', [
    # Confident levels, with a probability of the label that underflows in float32.
    ([[200., 0.], [200., 0.]], 200),
    # e^-200 + e^-100, halved
    ([[200., 0.], [100., 0.]], 100 + math.log(2)),
    # One is right.
    ([[1000., 0.], [0., 1000.]], math.log(2)),
])
def test_average_of_sure_levels_does_not_overflow(scores, expected):
    head = IndependentClsHead(num_classes=2, in_channels=(2, 2), norm=False, dropout=0.)
    with torch.no_grad():
        for fc in head.fc:
            fc.weight.copy_(torch.eye(2))
            fc.bias.zero_()
    feats = tuple(torch.tensor([row], requires_grad=True) for row in scores)
    loss = head.loss(feats, BatchedSamples(torch.tensor([1])))['loss']
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert all(feat.grad.isfinite().all() for feat in feats)


@pytest.mark.parametrize('head, options', HEADS)
def test_of_one_level_all_are_one_classifier(head, options):
    model, feats = build(head, (5, ), **options).eval(), vectors(widths=(5, ))
    expected = build(ConcatClsHead, (5, )).eval()(feats)
    torch.testing.assert_close(model(feats).log_softmax(1), expected.log_softmax(1), rtol=1e-10, atol=1e-12)


# BN, ReLU and dropout

@every_head
def test_bn_of_the_joined_is_bn_of_each(head, options):
    model, feats = build(head, dropout=0., **options).train(), vectors()
    norms = [nn.BatchNorm1d(width).double() for width in WIDTHS]
    joined = model.transform[0]
    with torch.no_grad():
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            for norm, value in zip(norms, getattr(joined, name).split(WIDTHS)):
                getattr(norm, name).copy_(value)
    expected = torch.cat([F.relu(norm(feat)) for norm, feat in zip(norms, feats)], 1)
    torch.testing.assert_close(model.pre_logits(feats), expected, rtol=1e-12, atol=1e-14)
    # The running statistics are equal too.
    for name in ('running_mean', 'running_var'):
        torch.testing.assert_close(getattr(joined, name), torch.cat([getattr(norm, name) for norm in norms]))


@every_head
@pytest.mark.parametrize('norm', [False, True])
def test_dropout_comes_last_and_in_training_only(head, options, norm):
    feats = vectors(n=400)
    kept = build(head, norm=norm, dropout=0., **options).train().pre_logits(feats)
    dropped = build(head, norm=norm, **options).train().pre_logits(feats)
    # Half of them by default.
    alive = dropped != 0
    torch.testing.assert_close(dropped, torch.where(alive, 2 * kept, 0.), rtol=1e-12, atol=0)
    share = (alive.sum() / (kept != 0).sum()).item()
    assert share == pytest.approx(0.5, abs=0.05)
    without, with_dropout = (build(head, norm=norm, dropout=p, **options).eval().pre_logits(feats) for p in (0., 0.9))
    assert torch.equal(without, with_dropout)


@pytest.mark.parametrize('combine', ['average', 'sum'])
def test_full_dropout_leaves_the_biases(combine):
    model = build(IndependentClsHead, combine=combine, dropout=1.).train()
    biases = [fc.bias.detach() for fc in model.fc]
    expected = sum(biases) if combine == 'sum' else (sum(bias.softmax(0) for bias in biases) / 3).log()
    torch.testing.assert_close(model(vectors()), expected.expand(9, -1), rtol=1e-10, atol=1e-12)


# Parameters

@every_head
@pytest.mark.parametrize('norm', [False, True])
def test_parameters(head, options, norm):
    model = head(num_classes=CLASSES, in_channels=WIDTHS, norm=norm, **options)
    expected = {'transform.0.weight': (15, ), 'transform.0.bias': (15, )} if norm else {}
    if head is ConcatClsHead:
        expected.update({'fc.weight': (7, 15), 'fc.bias': (7, )})
    else:
        for index, width in enumerate(WIDTHS):
            expected.update({f'fc.{index}.weight': (7, width), f'fc.{index}.bias': (7, )})
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == expected
    # 15 * 7 weights, one bias for each class and classifier, two for each channel of BN.
    count = 105 + (7 if head is ConcatClsHead else 21) + (30 if norm else 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@every_head
@pytest.mark.parametrize('convert', [lambda model: model, convert_sync_batchnorm], ids=['bn', 'sync'])
def test_initialisation(head, options, convert):
    torch.manual_seed(0)
    model = head(num_classes=10, in_channels=(300, 200), **options)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        model.transform[0].bias.fill_(7)
    model = convert(model)
    model.init_weights()
    weight = model.transform[0].weight
    assert 0 <= weight.min() < 0.05 < 0.95 < weight.max() < 1
    assert weight.mean().item() == pytest.approx(0.5, abs=5 / math.sqrt(12 * 500))
    assert (model.transform[0].bias == 0).all()
    for name, value in model.named_parameters():
        if name.startswith('fc'):
            # As torch initialises linear layers: uniform up to 1 / sqrt(width).
            assert torch.equal(value, before[name])
    bound = 1 / math.sqrt(500 if head is ConcatClsHead else 300)
    largest = (model.fc if head is ConcatClsHead else model.fc[0]).weight.abs().max()
    assert 0.95 * bound < largest <= bound


def test_initialisation_can_be_chosen():
    init_cfg = dict(type='Constant', layer='Linear', val=0.25, bias=0.5)
    model = IndependentClsHead(num_classes=3, in_channels=(4, 5), init_cfg=init_cfg)
    model.init_weights()
    for fc in model.fc:
        assert (fc.weight == 0.25).all() and (fc.bias == 0.5).all()


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmat'])
@pytest.mark.parametrize('name, head', [('ConcatClsHead', ConcatClsHead), ('IndependentClsHead', IndependentClsHead)])
def test_builds_from_any_scope(scope, name, head):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type=f'mmat.{name}', num_classes=10, in_channels=[8, 16], dropout=0.2))
    assert type(model) is head and isinstance(model, LinearClsHead)
    assert model.transform[-1].p == 0.2


# Losses and predictions

@every_head
@pytest.mark.parametrize('batch', [BatchedSamples(labels()), samples(labels())], ids=['tensor', 'list'])
def test_labels_of_either_kind(head, options, batch):
    model, feats = build(head, dropout=0., **options).eval(), vectors()
    losses = model.loss(feats, batch)
    assert losses.keys() == {'loss'}
    expected = -model(feats).log_softmax(1)[range(9), labels()].mean()
    torch.testing.assert_close(losses['loss'], expected, rtol=1e-12, atol=0)


@every_head
def test_accuracy_in_training(head, options):
    model, feats = build(head, dropout=0., cal_acc=True, topk=(1, 3), **options).eval(), vectors()
    losses = model.loss(feats, BatchedSamples(labels()))
    assert losses.keys() == {'loss', 'accuracy_top-1', 'accuracy_top-3'}
    hits = model(feats).argsort(1, descending=True) == labels()[:, None]
    for k in (1, 3):
        share = hits[:, :k].sum().item() / 9
        assert 0 < share < 1
        assert torch.as_tensor(losses[f'accuracy_top-{k}']).item() == pytest.approx(100 * share, rel=1e-6)


@pytest.mark.parametrize('combine', ['average', 'sum'])
@pytest.mark.parametrize('batch', [BatchedSamples(labels(), [*range(20, 29)]), samples(labels()), None],
                         ids=['tensor', 'list', 'none'])
def test_predictions(combine, batch):
    model, feats = build(IndependentClsHead, combine=combine).eval(), vectors()
    with torch.no_grad():
        logits = levels(model, feats, False)
        predictions = model.predict(feats, batch)
    if combine == 'average':
        expected = sum(each.softmax(1) for each in logits) / 3
    else:
        expected = sum(logits).softmax(1)
    assert len(predictions) == 9
    for sample, scores in zip(predictions, expected):
        torch.testing.assert_close(sample.pred_score, scores, rtol=1e-10, atol=1e-14)
        assert sample.pred_label.item() == scores.argmax()
    if batch is not None:
        assert [sample.gt_label.item() for sample in predictions] == labels().tolist()


def test_concat_predictions():
    model, feats = build(ConcatClsHead).eval(), vectors()
    with torch.no_grad():
        predictions = model.predict(feats, samples(labels()))
        joined = torch.cat(transformed(model, feats, False), 1)
        expected = (joined @ model.fc.weight.T + model.fc.bias).softmax(1)
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in predictions]), expected)


@every_head
def test_bfloat16_autocast(head, options):
    model, feats = build(head, dropout=0., **options).float().train(), vectors(dtype=torch.float32)
    expected = model.loss(feats, BatchedSamples(labels()))['loss']
    with torch.autocast('cpu', torch.bfloat16):
        # The dtype of attention under autocast.
        loss = model.loss(tuple(feat.bfloat16() for feat in feats), BatchedSamples(labels()))['loss']
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name


# Errors

@every_head
@pytest.mark.parametrize('shapes', [
    [(9, 4), (9, 6)],
    [(9, 4), (9, 6), (9, 5), (9, 5)],
    [(9, 4), (9, 5), (9, 6)],
    # Their sum is right.
    [(9, 15)],
    [(9, 4), (9, 11)],
    [(9, 4), (9, 6), (9, 5, 1, 1)],
    [(4, ), (6, ), (5, )],
    [],
])
def test_refuses_other_vectors(head, options, shapes):
    model = head(num_classes=CLASSES, in_channels=WIDTHS, **options)
    with pytest.raises(ConfigError) as error:
        model(tuple(torch.ones(shape) for shape in shapes))
    for part in (head.__name__, str(WIDTHS), f'got {shapes}'):
        assert part in str(error.value)


@every_head
@pytest.mark.parametrize('in_channels', [512, True, (), [], None, (4, 0), (-1, 4), (4., ), 'ab'])
def test_refuses_other_widths(head, options, in_channels):
    with pytest.raises(ConfigError) as error:
        head(num_classes=CLASSES, in_channels=in_channels, **options)
    for part in (f'in_channels of {head.__name__}', f'got {in_channels!r}'):
        assert part in str(error.value)


@pytest.mark.parametrize('combine', ['mean', 'Sum', '', None])
def test_refuses_other_combinations(combine):
    with pytest.raises(ConfigError, match=rf"combine.*IndependentClsHead.*\('average', 'sum'\).*{combine!r}"):
        IndependentClsHead(num_classes=CLASSES, in_channels=WIDTHS, combine=combine)
