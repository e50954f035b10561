import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from mmpretrain.models import LinearClsHead as MMPretrainLinearClsHead
from mmpretrain.structures import DataSample

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError
from mmat.models import LinearClsHead
from mmat.registry import MODELS

# Through an identity layer: probabilities (3/4, 1/4) and (4/5, 1/5); labels 0 and 1 have 3/4 and 1/5.
FEATURES = torch.tensor([[math.log(3), 0.], [math.log(4), 0.]])
LABELS = torch.tensor([0, 1])
# (ln(4/3) + ln 5) / 2
LOSS = 0.9485599924429406


def identity_head(**options):
    head = LinearClsHead(num_classes=2, in_channels=2, **options)
    with torch.no_grad():
        head.fc.weight.copy_(torch.eye(2))
        head.fc.bias.zero_()
    return head


def samples(labels):
    return [DataSample().set_gt_label(int(label)) for label in labels]


@pytest.mark.parametrize('labels', [BatchedSamples(LABELS), samples(LABELS)], ids=['tensor', 'list'])
def test_golden_loss_and_accuracy(labels):
    losses = identity_head(cal_acc=True).loss((FEATURES, ), labels)
    assert losses.keys() == {'loss', 'accuracy_top-1'}
    assert losses['loss'].item() == pytest.approx(LOSS, rel=1e-6)
    # mmpretrain returns a list with one accuracy for each threshold.
    assert [float(accuracy) for accuracy in losses['accuracy_top-1']] == [50]


def test_accuracy_is_off_by_default():
    assert identity_head().loss((FEATURES, ), BatchedSamples(LABELS)).keys() == {'loss'}


def test_the_last_stage_is_classified():
    losses = identity_head().loss((torch.zeros(2, 5), FEATURES), BatchedSamples(LABELS))
    assert losses['loss'].item() == pytest.approx(LOSS, rel=1e-6)


class HalfCrossEntropy(torch.nn.Module):

    def forward(self, cls_score, label, avg_factor):
        return F.cross_entropy(cls_score, label, reduction='sum') / avg_factor / 2


@pytest.mark.parametrize('loss, scale', [
    (dict(type='mmpretrain.CrossEntropyLoss', loss_weight=2.0), 2),
    (HalfCrossEntropy(), 0.5),
])
def test_loss_can_be_chosen(loss, scale):
    losses = identity_head(loss=loss).loss((FEATURES, ), BatchedSamples(LABELS))
    assert losses['loss'].item() == pytest.approx(scale * LOSS, rel=1e-6)


def test_loss_and_gradients_equal_mmpretrains():
    torch.manual_seed(0)
    ours = LinearClsHead(num_classes=5, in_channels=7, cal_acc=True, topk=(1, 3))
    theirs = MMPretrainLinearClsHead(
        num_classes=5, in_channels=7, cal_acc=True, topk=(1, 3),
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0))
    # mmpretrain's counts scores above zero only.
    nn.init.constant_(ours.fc.bias, 10)
    theirs.load_state_dict(ours.state_dict())
    features, labels = torch.randn(9, 7), torch.randint(0, 5, (9, ))
    found = ours.loss((features, ), BatchedSamples(labels))
    expected = theirs.loss((features, ), samples(labels))
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(expected[key]))
    gradients = [torch.autograd.grad(losses['loss'], head.fc.weight)[0]
                 for head, losses in ((ours, found), (theirs, expected))]
    assert torch.equal(*gradients)


def test_accuracy_does_not_depend_on_the_sign_of_the_scores():
    head = identity_head(cal_acc=True)
    expected = head.loss((FEATURES + 100, ), BatchedSamples(LABELS))['accuracy_top-1']
    result = head.loss((FEATURES - 100, ), BatchedSamples(LABELS))['accuracy_top-1']
    assert [each.item() for each in result] == [each.item() for each in expected] == [
        100 * (FEATURES.argmax(1) == LABELS).float().mean().item()]


def test_accuracy_of_mixed_labels_is_refused():
    mixed = [DataSample().set_gt_label(0).set_gt_score(score) for score in torch.eye(2)]
    with pytest.raises(ConfigError, match='cal_acc'):
        identity_head(cal_acc=True).loss((FEATURES, ), mixed)


def test_mixed_labels_are_scores():
    scores = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    mixed = [DataSample().set_gt_label(0).set_gt_score(score) for score in scores]
    expected = -(scores * F.log_softmax(FEATURES, dim=1)).sum() / 2
    result = identity_head().loss((FEATURES, ), mixed)['loss']
    torch.testing.assert_close(result, expected)


def test_predictions_keep_the_labels():
    batch = BatchedSamples(LABELS, [7, 8])
    predictions = identity_head().predict((FEATURES, ), batch)
    assert predictions is batch
    assert predictions.pred_label.tolist() == [0, 0] and predictions.pred_score.shape == (2, 2)
    assert [sample.gt_label.item() for sample in predictions] == [0, 1]
    assert [sample.pred_label.item() for sample in predictions] == [0, 0]
    assert [sample.sample_idx for sample in predictions] == [7, 8]
    torch.testing.assert_close(predictions[0].pred_score, torch.tensor([0.75, 0.25]))


@pytest.mark.parametrize('given', [lambda labels: samples(labels), lambda labels: None, BatchedSamples],
                         ids=['list', 'none', 'tensor'])
def test_predictions_equal_mmpretrains(given):
    torch.manual_seed(0)
    ours = LinearClsHead(num_classes=5, in_channels=7)
    theirs = MMPretrainLinearClsHead(num_classes=5, in_channels=7)
    theirs.load_state_dict(ours.state_dict())
    features, labels = torch.randn(9, 7), torch.randint(0, 5, (9, ))
    batch = given(labels)
    with torch.no_grad():
        found = ours.predict((features, ), batch)
        expected = theirs.predict((features, ), None if batch is None else samples(labels))
    assert isinstance(found, BatchedSamples if given is BatchedSamples else list)
    assert len(found) == len(expected) == 9
    for number, (mine, other) in enumerate(zip(found, expected)):
        mine, other = mine.to_dict(), other.to_dict()
        assert mine.keys() == other.keys()
        assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(other[key])) for key, value in mine.items())
        if isinstance(batch, list):
            assert found[number] is batch[number]


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmat'])
def test_builds_from_any_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        head = MODELS.build(dict(type='mmat.LinearClsHead', num_classes=10, in_channels=64))
    assert isinstance(head, LinearClsHead)
    assert head.loss_module.loss_weight == 1


def test_the_authors_initialisation_from_a_config():
    torch.manual_seed(0)
    head = MODELS.build(dict(
        type='mmat.LinearClsHead', num_classes=100, in_channels=128,
        init_cfg=dict(type='Kaiming', layer='Linear', mode='fan_in', nonlinearity='relu')))
    head.init_weights()
    std = math.sqrt(2 / 128)
    # Five standard errors; normal, not uniform: a uniform one never passes 1.74 std.
    assert abs(head.fc.weight.std().item() - std) < 5 * std / math.sqrt(2 * 12800)
    assert head.fc.weight.abs().max() > 3 * std
    assert (head.fc.bias == 0).all()
