import copy
import math

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.structures import DataSample

from mmat.datasets import BatchedSamples
from mmat.models import BaseATHead, NetworkOutputs, build_network
from mmat.models.at_heads.base import QUANTITIES, unique_names
from mmat.registry import MODELS

LABELS = torch.tensor([3, 0, 9, 5])
MIXUP = dict(augments=dict(type='mmpretrain.Mixup', alpha=1.))


class Reader(BaseATHead):
    """Remembers what it is given, and gives what it is told to."""

    def __init__(self, student=(), teacher=(), result=None, **kwargs):
        super().__init__(**kwargs)
        self.student_wants, self.teacher_wants = student, teacher
        self.result = result
        self.seen = []

    def loss(self, student, teacher):
        self.seen.append((student, teacher))
        return torch.tensor(2.) if self.result is None else self.result


@pytest.fixture(scope='module', autouse=True)
def entropy_head():
    """A head as a user would add one: by its type in a config, without a teacher."""

    @MODELS.register_module(name='EntropyHead')
    class EntropyHead(BaseATHead):
        """Keeps the student's predictions from becoming too sure."""

        student_wants = ('logits', 'targets')

        def __init__(self, weight=1., name='entropy'):
            super().__init__(weight=weight, name=name)

        def loss(self, student, teacher):
            assert teacher is None
            logs = student.logits.log_softmax(1)
            entropy = -(logs.exp() * logs).sum(1)
            # Only where it is right.
            right = (student.logits.argmax(1) == student.targets).float()
            return dict(right=(right * entropy).mean(), wrong=((1 - right) * entropy).mean())

    yield
    MODELS.module_dict.pop('EntropyHead')


def batch(samples=None):
    generator = torch.Generator().manual_seed(0)
    return dict(inputs=torch.randint(0, 256, (4, 3, 8, 8), generator=generator, dtype=torch.uint8),
                data_samples=BatchedSamples(LABELS) if samples is None else samples)


def data_of(distiller, samples=None, training=False):
    return distiller.data_preprocessor(batch(samples), training)


def only(head):
    seen, = head.seen
    return seen


def with_heads(distiller_config, *heads, **kwargs):
    return MODELS.build(distiller_config(at_heads=list(heads), **kwargs))


# What a head reads

@pytest.mark.parametrize('want', QUANTITIES)
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_head_gets_what_it_asked_for_and_nothing_else(side, want, distiller_config):
    head = Reader(**{side: (want, )})
    distiller = with_heads(distiller_config, head).eval()
    distiller(**data_of(distiller), mode='loss')
    student, teacher = only(head)
    given, other = (student, teacher) if side == 'student' else (teacher, student)
    assert [name for name in QUANTITIES if getattr(given, name) is not None] == [want]
    # One that reads nothing of the teacher has none.
    assert other is None if side == 'student' else other == NetworkOutputs()


def test_features_are_those_of_its_layers_only(distiller_config):
    head = Reader(student=('logits', ), teacher=('logits', ), pairs=[(0, 2)])
    distiller = with_heads(distiller_config, head).eval()
    distiller(**data_of(distiller), mode='loss')
    student, teacher = only(head)
    assert list(student.features) == ['backbone.group0'] and list(teacher.features) == ['backbone.group2']


def test_logits_and_features_are_the_networks(distiller_config):
    head = Reader(student=('logits', ), teacher=('logits', ), pairs=[(0, 0), (2, 2)])
    distiller = with_heads(distiller_config, head).eval()
    data = data_of(distiller)
    distiller(**data, mode='loss')
    for network, outputs in zip((distiller.student, distiller.teacher.network), only(head)):
        with torch.no_grad():
            assert torch.equal(outputs.logits, network(data['inputs']))
            backbone = network.backbone
            group0 = backbone.group0(backbone.conv0(data['inputs']))
            group2 = backbone.group2(backbone.group1(group0))
        assert torch.equal(outputs.features['backbone.group0'], group0)
        assert torch.equal(outputs.features['backbone.group2'], group2)
    student, teacher = only(head)
    assert student.logits.requires_grad and student.features['backbone.group0'].requires_grad
    assert not teacher.logits.requires_grad and not teacher.features['backbone.group0'].requires_grad


def test_the_input_gradient_is_that_of_each_networks_own_loss(distiller_config):
    head = Reader(student=('input_gradient', ), teacher=('input_gradient', 'targets'))
    distiller = with_heads(distiller_config, head).eval()
    data = data_of(distiller)
    distiller(**data, mode='loss')
    for network, outputs in zip((distiller.student, distiller.teacher.network), only(head)):
        inputs = data['inputs'].clone().requires_grad_()
        # Of the sum, that is: each sample's own.
        expected = torch.autograd.grad(F.cross_entropy(network(inputs), LABELS, reduction='sum'), inputs)[0]
        torch.testing.assert_close(outputs.input_gradient.detach(), expected, rtol=1e-4, atol=1e-7)
        assert expected.abs().max() > 1e-5
    student, teacher = only(head)
    assert student.input_gradient.requires_grad and not teacher.input_gradient.requires_grad


@pytest.mark.parametrize('samples', [
    BatchedSamples(LABELS),
    [DataSample().set_gt_label(int(label)) for label in LABELS],
], ids=['tensor', 'list'])
def test_targets_are_the_labels(samples, distiller_config):
    head = Reader(student=('targets', ), teacher=['targets'])
    distiller = with_heads(distiller_config, head).eval()
    distiller(**data_of(distiller, samples), mode='loss')
    for outputs in only(head):
        assert outputs.targets.dtype == torch.int64 and torch.equal(outputs.targets, LABELS)


def test_targets_are_the_scores_where_images_are_mixed(distiller_config, network_config):
    student = network_config(train_cfg=MIXUP)
    student['data_preprocessor'].update(num_classes=10)
    student['head'].update(cal_acc=False, loss=dict(type='mmpretrain.CrossEntropyLoss', use_soft=True))
    head = Reader(student=('targets', 'logits'))
    distiller = with_heads(distiller_config, head, student=student).eval()
    torch.manual_seed(1)
    np.random.seed(0)
    data = data_of(distiller, training=True)
    result = distiller(**data, mode='loss')
    targets, logits = only(head)[0].targets, only(head)[0].logits
    assert torch.equal(targets, torch.stack([sample.gt_score for sample in data['data_samples']]))
    assert targets.shape == (4, 10)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    # Something was mixed: half a label here, half a label there.
    assert not torch.equal(targets, F.one_hot(LABELS, 10).float())
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(result['loss_task'], expected)


@pytest.mark.parametrize('samples', [None, [], [DataSample()] * 4])
def test_a_batch_without_labels_has_no_targets(samples, distiller_config):

    class Unlabelled(nn.Module):

        def __init__(self, network):
            super().__init__()
            self.backbone, self.data_preprocessor = network.backbone, network.data_preprocessor

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return dict(loss=self.backbone(inputs)[0].mean())

    student = Unlabelled(build_network(distiller_config()['student']))
    distiller = with_heads(distiller_config, Reader(student=('targets', )), student=student)
    with pytest.raises(ValueError, match='gt_label.*gt_score'):
        distiller(torch.rand(4, 3, 8, 8), samples, mode='loss')


def test_one_pass_of_each_network_serves_all_heads(distiller_config):
    heads = [Reader(student=('logits', 'targets'), teacher=('logits', ), pairs=[(0, 0)]),
             Reader(student=('logits', ), pairs=[(0, 2), (2, 2)])]
    distiller = with_heads(distiller_config, *heads).eval()
    passes = []
    for network in (distiller.student, distiller.prepare_teacher().network):
        network.backbone.register_forward_hook(lambda module, args, output: passes.append(module))
    distiller(**data_of(distiller), mode='loss')
    assert passes == [distiller.teacher.network.backbone, distiller.student.backbone]
    (first_student, first_teacher), (second_student, second_teacher) = map(only, heads)
    assert first_student.logits is second_student.logits
    assert first_student.features['backbone.group0'] is second_student.features['backbone.group0']
    assert first_teacher.features['backbone.group2'] is second_teacher.features['backbone.group2']


@pytest.mark.parametrize('options, message', [
    (dict(student=('logit', )), r"student_wants of Reader has 'logit', which is none of .*; the closest is 'logits'"),
    (dict(teacher=('logits', 'target')), "teacher_wants of Reader has 'target', .*the closest is 'targets'"),
    (dict(student=('input_gradients', )), "'input_gradients', .*the closest is 'input_gradient'"),
    (dict(student=('flipped_gradient', )), "the closest is 'flipped_input_gradient'"),
    # Attributes of NetworkOutputs, but nothing to ask for: pairs do.
    (dict(student=('features', )), "has 'features', which is none of"),
    (dict(student=('zzz', )), "has 'zzz', which is none of"),
    (dict(student=(3, )), 'has 3, which is none of'),
    (dict(student='logits'), "student_wants of Reader must be a tuple of names, got 'logits'"),
    (dict(teacher='logits'), "teacher_wants of Reader must be a tuple of names, got 'logits'"),
])
def test_a_quantity_that_there_is_not_is_refused_at_build(options, message, distiller_config):
    with pytest.raises(ValueError, match=message):
        with_heads(distiller_config, Reader(**options))


# What a head gives

def test_one_tensor_is_logged_under_the_heads_name(distiller_config):
    value = torch.tensor(3., requires_grad=True)
    distiller = with_heads(distiller_config, Reader(result=value, weight=4., name='mine')).eval()
    result = distiller(**data_of(distiller), mode='loss')
    assert set(result) == {'loss_task', 'accuracy_top-1', 'loss_mine', 'mine'}
    assert result['loss_mine'].item() == 12 and result['mine'].item() == 3
    assert torch.autograd.grad(result['loss_mine'], value)[0] == 4 and not result['mine'].requires_grad


def test_several_are_logged_under_their_own(distiller_config):
    values = dict(a=torch.tensor(3.), b=torch.tensor(5.))
    distiller = with_heads(distiller_config, Reader(result=values, weight=4., name='mine')).eval()
    result = distiller(**data_of(distiller), mode='loss')
    own = {key: value.item() for key, value in result.items() if 'mine' in key}
    assert own == {'loss_mine.a': 12, 'mine.a': 3, 'loss_mine.b': 20, 'mine.b': 5}
    total = distiller.parse_losses(result)[0].item()
    assert total == pytest.approx(result['loss_task'].item() + 32, rel=1e-6)


def test_a_raw_value_is_not_summed_whatever_a_head_calls_it(distiller_config):
    head = Reader(result=dict(loss_a=torch.tensor(3.)), weight=4., name='mine')
    distiller = with_heads(distiller_config, head).eval()
    result = distiller(**data_of(distiller), mode='loss')
    total = distiller.parse_losses(result)[0].item()
    assert total == pytest.approx(result['loss_task'].item() + 12, rel=1e-6)


def test_a_head_does_not_replace_the_students_own_loss(distiller_config):
    with pytest.raises(ValueError, match='task'):
        distiller = with_heads(distiller_config, Reader(name='task')).eval()
        distiller(**data_of(distiller), mode='loss')


@pytest.mark.parametrize('weight', [
    dict(type='linear', initial=4.), dict(type='step', initial=4., milestones=[1], gamma=0.5)])
def test_a_weight_that_changes_is_logged_once(weight, distiller_config):
    values = dict(a=torch.tensor(3.), b=torch.tensor(5.))
    head = Reader(result=values, weight=weight, name='mine')
    distiller = with_heads(distiller_config, head).eval()
    distiller.set_progress(1, 0, 2, 4)
    result = distiller(**data_of(distiller), mode='loss')
    own = {key: value.item() for key, value in result.items() if 'mine' in key}
    assert own == {'loss_mine.a': 6, 'mine.a': 3, 'loss_mine.b': 10, 'mine.b': 5, 'mine.weight': 2}


def test_a_head_may_say_what_its_loss_is_multiplied_by(distiller_config):

    class Third(Reader):

        @property
        def factor(self):
            return self.weight / 3

    distiller = with_heads(distiller_config, Third(weight=6., name='mine')).eval()
    assert distiller(**data_of(distiller), mode='loss')['loss_mine'].item() == 4


@pytest.mark.parametrize('weight, learns', [(0., False), (2., True)])
def test_without_a_weight_it_has_no_gradient(weight, learns, distiller_config):

    class Mean(Reader):

        def loss(self, student, teacher):
            assert torch.is_grad_enabled() == learns
            return student.logits.square().mean()

    distiller = with_heads(distiller_config, Mean(student=('logits', ), weight=weight, name='mine'))
    result = distiller(**data_of(distiller), mode='loss')
    assert result['loss_mine'].requires_grad == learns and result['mine'] > 0


# With and without a teacher

def test_a_head_that_needs_no_teacher_trains_without_one(distiller_config, make_runner):
    runner = make_runner(distiller_config(teacher=None, at_heads=[dict(type='mmat.EntropyHead', weight=0.5)]))
    logged = []
    train_step = runner.model.train_step
    runner.model.train_step = lambda *args, **kwargs: logged.append(train_step(*args, **kwargs)) or logged[-1]
    runner.train()
    assert runner.model.teacher is None and runner.iter == 4
    for log in logged:
        assert {key for key in log if 'loss' in key} == {
            'loss', 'loss_task', 'loss_entropy.right', 'loss_entropy.wrong'}
        # Of ten classes all alike, right or wrong, which they still are about.
        entropy = log['entropy.right'].item() + log['entropy.wrong'].item()
        assert entropy == pytest.approx(math.log(10), rel=0.2)
        parts = log['loss_task'].item() + 0.5 * entropy
        assert log['loss'].item() == pytest.approx(parts, rel=1e-5)


def test_what_it_computes_is_what_the_formula_says(distiller_config):
    distiller = MODELS.build(distiller_config(teacher=None, at_heads=[dict(type='mmat.EntropyHead')])).eval()
    data = data_of(distiller)
    plain = copy.deepcopy(distiller.student)
    result = distiller(**data, mode='loss')
    distiller.parse_losses(result)[0].backward()
    scores = plain(data['inputs'])
    entropy = torch.distributions.Categorical(logits=scores).entropy()
    (F.cross_entropy(scores, LABELS) + entropy.mean()).backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(
            distiller.student.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_two_without_a_teacher_are_numbered(distiller_config):
    distiller = MODELS.build(distiller_config(teacher=None, at_heads=[dict(type='mmat.EntropyHead')] * 2)).eval()
    result = distiller(**data_of(distiller), mode='loss')
    assert [key for key in result if key.startswith('loss_')] == [
        'loss_task', 'loss_entropy.right', 'loss_entropy.wrong', 'loss_entropy_2.right', 'loss_entropy_2.wrong']


def test_beside_one_that_reads_the_teacher_it_trains_too(distiller_config):
    reader = Reader(teacher=('logits', ))
    distiller = with_heads(distiller_config, Reader(student=('logits', ), name='alone'), reader).eval()
    assert {'loss_alone', 'loss_at'} < set(distiller(**data_of(distiller), mode='loss'))
    assert only(reader)[1].logits is not None


@pytest.mark.parametrize('options', [
    dict(teacher=('logits', )), dict(teacher=('targets', )), dict(teacher=('input_gradient', )), dict(pairs=[(0, 0)])])
def test_a_head_that_reads_a_teacher_is_refused_without_one(options, distiller_config):
    heads = Reader(student=('logits', ), name='alone'), Reader(name='mine', **options), Reader(name='mine', **options)
    assert [head.needs_teacher for head in heads] == [False, True, True]
    with pytest.raises(ValueError, match=r"\['mine', 'mine_2'\] read a teacher, but the distiller has none"):
        with_heads(distiller_config, *heads, teacher=None)


# Names

@pytest.mark.parametrize('names, expected', [
    (['at'], ['at']),
    (['at', 'at', 'at'], ['at', 'at_2', 'at_3']),
    (['at', 'mine', 'at'], ['at', 'mine', 'at_2']),
    # A number that a user gave stays his.
    (['at', 'at_2', 'at'], ['at', 'at_2', 'at_3']),
    (['at', 'at', 'at_2'], ['at', 'at_3', 'at_2']),
    (['at_2', 'at_2', 'at', 'at'], ['at_2', 'at_2_2', 'at', 'at_3']),
    ([], []),
])
def test_names_are_numbered(names, expected, distiller_config):
    assert unique_names(names) == expected
    if names:
        distiller = with_heads(distiller_config, *(Reader(name=name) for name in names)).eval()
        assert [head.name for head in distiller.at_heads] == expected
        result = distiller(**data_of(distiller), mode='loss')
        assert [key for key in result if key.startswith('loss_')] == ['loss_task', *(f'loss_{n}' for n in expected)]


def test_a_name_that_mmengine_would_sum_is_refused():
    with pytest.raises(ValueError, match="must not contain 'loss', got 'my_loss'"):
        Reader(name='my_loss')


def test_a_head_needs_a_loss():
    with pytest.raises(TypeError, match='abstract.*loss'):
        BaseATHead()


# Parameters that depend on the widths

def test_setup_gets_the_shapes_of_its_layers_once(distiller_config, network_config):
    calls = []

    class Sized(Reader):

        def setup(self, student_shapes, teacher_shapes):
            calls.append((student_shapes, teacher_shapes))

    teacher = dict(model=network_config(widen_factor=2), checkpoint='nowhere.pth')
    with_heads(distiller_config, Sized(pairs=[(0, 2), (2, 1)]), Reader(pairs=[(1, 1)]), teacher=teacher)
    # For one CIFAR image.
    assert calls == [({'backbone.group0': (1, 16, 32, 32), 'backbone.group2': (1, 64, 8, 8)},
                      {'backbone.group2': (1, 128, 8, 8), 'backbone.group1': (1, 64, 16, 16)})]


def test_setup_of_a_head_without_a_teacher_gets_none(distiller_config):
    calls = []

    class Sized(Reader):

        def setup(self, student_shapes, teacher_shapes):
            calls.append((student_shapes, teacher_shapes))

    with_heads(distiller_config, Sized(student=('logits', )), teacher=None)
    assert calls == [({}, {})]
