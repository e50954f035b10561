import copy
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.structures import DataSample

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, DataError
from mmat.models import ActivationATHead, BaseATHead, NetworkOutputs, build_network
from mmat.models.at_heads.base import QUANTITIES, unique_names
from mmat.registry import MODELS

LABELS = torch.tensor([3, 0, 9, 5])
MIXUP = dict(augments=dict(type='mmpretrain.Mixup', alpha=1.))


class Reader(BaseATHead):
    """Records its inputs and returns a given result."""

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
    """Register a head without a teacher, as a user would."""

    @MODELS.register_module(name='EntropyHead')
    class EntropyHead(BaseATHead):
        """Entropy of the student's predictions."""

        student_wants = ('logits', 'targets')

        def __init__(self, weight=1., name='entropy'):
            super().__init__(weight=weight, name=name)

        def loss(self, student, teacher):
            assert teacher is None
            logs = student.logits.log_softmax(1)
            entropy = -(logs.exp() * logs).sum(1)
            # 1 for correct predictions.
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


# Inputs of a head

@pytest.mark.parametrize('want', QUANTITIES)
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_head_gets_the_quantities_that_it_wants_only(side, want, distiller_config):
    head = Reader(**{side: (want, )})
    distiller = with_heads(distiller_config, head).eval()
    distiller(**data_of(distiller), mode='loss')
    student, teacher = only(head)
    given, other = (student, teacher) if side == 'student' else (teacher, student)
    assert [name for name in QUANTITIES if getattr(given, name) is not None] == [want]
    # A head that reads nothing of the teacher gets None.
    assert other is None if side == 'student' else other == NetworkOutputs()


def test_features_have_its_layers_as_configured_and_their_paths(distiller_config):
    head = Reader(student=('logits', ), teacher=('logits', ), pairs=[(0, 2), (-1, 'backbone.group0')])
    distiller = with_heads(distiller_config, head).eval()
    distiller(**data_of(distiller), mode='loss')
    student, teacher = only(head)
    assert head.student_layers == [0, -1] and head.student_paths == ['backbone.group0', 'backbone.group2']
    assert head.teacher_layers == [2, 'backbone.group0']
    assert head.teacher_paths == ['backbone.group2', 'backbone.group0']
    for outputs, layers, paths in ((student, head.student_layers, head.student_paths),
                                   (teacher, head.teacher_layers, head.teacher_paths)):
        assert set(outputs.features) == {*layers, *paths}
        for layer, path in zip(layers, paths):
            # One tensor, not a copy.
            assert outputs.features[layer].data_ptr() == outputs.features[path].data_ptr()
            assert torch.equal(outputs.features[layer], outputs.features[path])


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


def test_input_gradients_are_of_each_networks_own_loss(distiller_config):
    head = Reader(student=('input_gradient', ), teacher=('input_gradient', 'targets'))
    distiller = with_heads(distiller_config, head).eval()
    data = data_of(distiller)
    distiller(**data, mode='loss')
    for network, outputs in zip((distiller.student, distiller.teacher.network), only(head)):
        inputs = data['inputs'].clone().requires_grad_()
        # The gradient of the sum holds the gradient of each sample's loss.
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


def test_targets_of_mixed_images_are_scores(distiller_config, network_config):
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
    # Labels were mixed.
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
    with pytest.raises(DataError, match='gt_label.*gt_score'):
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
    (dict(student=('logit', )), "'logit'.*student_wants.*Reader.*'logits'"),
    (dict(teacher=('logits', 'target')), "'target'.*teacher_wants.*Reader.*'targets'"),
    (dict(student=('input_gradients', )), "'input_gradients'.*student_wants.*'input_gradient'"),
    (dict(student=('flipped_gradient', )), "'flipped_gradient'.*student_wants.*'flipped_input_gradient'"),
    # An attribute of NetworkOutputs that heads read with `pairs`.
    (dict(student=('features', )), "'features'.*student_wants.*Reader"),
    (dict(student=('zzz', )), "'zzz'.*student_wants.*Reader"),
    (dict(student=(3, )), '3.*student_wants.*Reader'),
    (dict(student='logits'), "student_wants.*Reader.*got 'logits'"),
    (dict(teacher='logits'), "teacher_wants.*Reader.*got 'logits'"),
])
def test_an_unknown_quantity_is_refused_at_build(options, message, distiller_config):
    with pytest.raises(ConfigError, match=message):
        with_heads(distiller_config, Reader(**options))


# The teacher's reduced outputs

class Pooled(Reader):
    """Reduces the teacher's features; applied twice, it would reduce them further."""

    def reduce_teacher(self, teacher):
        return NetworkOutputs(features={key: value.mean(-1) for key, value in teacher.features.items()})


def test_loss_gets_the_reduced_teacher(distiller_config):
    pooled, whole, custom = Pooled(pairs=[(0, 0)]), Reader(pairs=[(0, 0)]), Reader(pairs=[(0, 0)])
    custom.reduce_teacher = lambda teacher: [teacher.features[0].sum(), 'any type']
    distiller = with_heads(distiller_config, pooled, whole, custom).eval()
    distiller(**data_of(distiller), mode='loss')
    features = only(whole)[1].features[0]
    assert features.shape == (4, 32, 8, 8)
    # Reduced once, although the result is a NetworkOutputs again.
    assert torch.equal(only(pooled)[1].features[0], features.mean(-1))
    assert only(custom)[1] == [features.sum(), 'any type']


def test_a_head_called_alone_reduces_the_teacher():
    features = torch.rand(2, 3, 4, 4)
    outputs = NetworkOutputs(features={0: features})
    for reduced, expected in ((False, features.mean(-1)), (True, features)):
        head = Pooled(pairs=[(0, 0)])
        head(outputs, outputs, reduced=reduced)
        assert torch.equal(only(head)[1].features[0], expected)


# Heads of mmat 0.1

def test_digest_is_a_deprecated_name_of_reduce_teacher(distiller_config):
    with pytest.warns(DeprecationWarning, match='Old.*digest.*reduce_teacher') as caught:

        class Old(Reader):

            def digest(self, teacher):
                return NetworkOutputs(features={key: value.mean(-1) for key, value in teacher.features.items()})

    assert len(caught) == 1 and caught[0].filename == __file__
    head, whole = Old(pairs=[(0, 0)]), Reader(pairs=[(0, 0)])
    distiller = with_heads(distiller_config, head, whole).eval()
    distiller(**data_of(distiller), mode='loss')
    assert torch.equal(only(head)[1].features[0], only(whole)[1].features[0].mean(-1))


def test_digest_of_a_parent_is_its_reduce_teacher():
    with pytest.warns(DeprecationWarning, match='Doubled.*digest.*reduce_teacher'):

        class Doubled(ActivationATHead):

            def digest(self, teacher):
                return [2 * each for each in super().digest(teacher)]

    features = torch.rand(2, 3, 4, 4)
    outputs = NetworkOutputs(features={0: features})
    expected, = ActivationATHead([(0, 0)]).digest(outputs)
    torch.testing.assert_close(expected, features.square().sum(1))
    assert torch.equal(Doubled([(0, 0)]).reduce_teacher(outputs)[0], 2 * expected)


def test_a_head_with_both_names_uses_reduce_teacher_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error')

        class Both(Reader):

            def reduce_teacher(self, teacher):
                return 'new'

            def digest(self, teacher):
                return 'old'

    assert Both().reduce_teacher(NetworkOutputs()) == 'new'


def test_overriding_setup_without_needs_shapes_is_deprecated(distiller_config):
    with pytest.warns(DeprecationWarning, match='Old.*setup.*needs_shapes = True') as caught:

        class Old(Reader):

            def setup(self, student_shapes, teacher_shapes):
                self.shapes = student_shapes, teacher_shapes

    assert len(caught) == 1 and caught[0].filename == __file__
    assert Old.needs_shapes and not Reader.needs_shapes
    head = Old(pairs=[(0, 2)])
    with_heads(distiller_config, head)
    assert head.shapes == ({0: (1, 16, 32, 32), 'backbone.group0': (1, 16, 32, 32)},
                           {2: (1, 128, 8, 8), 'backbone.group2': (1, 128, 8, 8)})


# Losses of a head

def test_one_tensor_is_logged_under_the_heads_name(distiller_config):
    value = torch.tensor(3., requires_grad=True)
    distiller = with_heads(distiller_config, Reader(result=value, weight=4., name='mine')).eval()
    result = distiller(**data_of(distiller), mode='loss')
    assert set(result) == {'loss_task', 'accuracy_top-1', 'loss_mine', 'mine'}
    assert result['loss_mine'].item() == 12 and result['mine'].item() == 3
    assert torch.autograd.grad(result['loss_mine'], value)[0] == 4 and not result['mine'].requires_grad


def test_several_losses_are_logged_under_their_labels(distiller_config):
    values = dict(a=torch.tensor(3.), b=torch.tensor(5.))
    distiller = with_heads(distiller_config, Reader(result=values, weight=4., name='mine')).eval()
    result = distiller(**data_of(distiller), mode='loss')
    own = {key: value.item() for key, value in result.items() if 'mine' in key}
    assert own == {'loss_mine.a': 12, 'mine.a': 3, 'loss_mine.b': 20, 'mine.b': 5}
    total = distiller.parse_losses(result)[0].item()
    assert total == pytest.approx(result['loss_task'].item() + 32, rel=1e-6)


def test_a_raw_value_is_not_summed_whatever_its_label(distiller_config):
    head = Reader(result=dict(loss_a=torch.tensor(3.)), weight=4., name='mine')
    distiller = with_heads(distiller_config, head).eval()
    result = distiller(**data_of(distiller), mode='loss')
    total = distiller.parse_losses(result)[0].item()
    assert total == pytest.approx(result['loss_task'].item() + 12, rel=1e-6)


def test_a_head_does_not_replace_the_students_own_loss(distiller_config):
    distiller = with_heads(distiller_config, Reader(name='task')).eval()
    with pytest.raises(ConfigError, match="'task'.*'loss_task'"):
        distiller(**data_of(distiller), mode='loss')


@pytest.mark.parametrize('weight', [
    dict(type='linear', initial=4.), dict(type='step', initial=4., milestones=[1], gamma=0.5)])
def test_a_scheduled_weight_is_logged_once(weight, distiller_config):
    values = dict(a=torch.tensor(3.), b=torch.tensor(5.))
    head = Reader(result=values, weight=weight, name='mine')
    distiller = with_heads(distiller_config, head).eval()
    distiller.set_progress(1, 0, 2, 4)
    result = distiller(**data_of(distiller), mode='loss')
    own = {key: value.item() for key, value in result.items() if 'mine' in key}
    assert own == {'loss_mine.a': 6, 'mine.a': 3, 'loss_mine.b': 10, 'mine.b': 5, 'mine.weight': 2}


def test_a_head_may_override_its_factor(distiller_config):

    class Third(Reader):

        @property
        def factor(self):
            return self.weight / 3

    distiller = with_heads(distiller_config, Third(weight=6., name='mine')).eval()
    assert distiller(**data_of(distiller), mode='loss')['loss_mine'].item() == 4


@pytest.mark.parametrize('weight, learns', [(0., False), (2., True)])
def test_with_weight_0_the_loss_has_no_gradient(weight, learns, distiller_config):

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
        # At the start the predictions are about uniform over ten classes.
        entropy = log['entropy.right'].item() + log['entropy.wrong'].item()
        assert entropy == pytest.approx(math.log(10), rel=0.2)
        parts = log['loss_task'].item() + 0.5 * entropy
        assert log['loss'].item() == pytest.approx(parts, rel=1e-5)


def test_a_custom_head_matches_its_formula(distiller_config):
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


def test_two_heads_without_a_teacher_are_numbered(distiller_config):
    distiller = MODELS.build(distiller_config(teacher=None, at_heads=[dict(type='mmat.EntropyHead')] * 2)).eval()
    result = distiller(**data_of(distiller), mode='loss')
    assert [key for key in result if key.startswith('loss_')] == [
        'loss_task', 'loss_entropy.right', 'loss_entropy.wrong', 'loss_entropy_2.right', 'loss_entropy_2.wrong']


def test_heads_with_and_without_a_teacher_train_together(distiller_config):
    reader = Reader(teacher=('logits', ))
    distiller = with_heads(distiller_config, Reader(student=('logits', ), name='alone'), reader).eval()
    assert {'loss_alone', 'loss_at'} < set(distiller(**data_of(distiller), mode='loss'))
    assert only(reader)[1].logits is not None


@pytest.mark.parametrize('options', [
    dict(teacher=('logits', )), dict(teacher=('targets', )), dict(teacher=('input_gradient', )), dict(pairs=[(0, 0)])])
def test_a_head_that_reads_a_teacher_is_refused_without_one(options, distiller_config):
    heads = Reader(student=('logits', ), name='alone'), Reader(name='mine', **options), Reader(name='mine', **options)
    assert [head.needs_teacher for head in heads] == [False, True, True]
    with pytest.raises(ConfigError, match="'mine'.*teacher=dict") as error:
        with_heads(distiller_config, *heads, teacher=None)
    assert "'alone'" not in str(error.value)


# Names

@pytest.mark.parametrize('names, expected', [
    (['at'], ['at']),
    (['at', 'at', 'at'], ['at', 'at_2', 'at_3']),
    (['at', 'mine', 'at'], ['at', 'mine', 'at_2']),
    # A number of the user is kept.
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
    with pytest.raises(ConfigError, match="'loss'.*got 'my_loss'"):
        Reader(name='my_loss')


def test_a_head_needs_a_loss():
    with pytest.raises(TypeError, match='abstract.*loss'):
        BaseATHead()


# Parameters that depend on the widths

def test_setup_gets_the_shapes_of_its_layers_once(distiller_config, network_config):
    calls = []

    class Sized(Reader):
        needs_shapes = True

        def setup(self, student_shapes, teacher_shapes):
            calls.append((student_shapes, teacher_shapes))

    teacher = dict(model=network_config(widen_factor=2), checkpoint='nowhere.pth')
    with_heads(distiller_config, Sized(pairs=[(0, 2), (2, 1)]), Reader(pairs=[(1, 1)]), teacher=teacher)
    # For one CIFAR image, by layer as configured and by path.
    assert calls == [(
        dict.fromkeys((0, 'backbone.group0'), (1, 16, 32, 32)) | dict.fromkeys((2, 'backbone.group2'), (1, 64, 8, 8)),
        dict.fromkeys((2, 'backbone.group2'), (1, 128, 8, 8)) | dict.fromkeys((1, 'backbone.group1'), (1, 64, 16, 16)))]


def test_setup_of_a_head_without_a_teacher_gets_none(distiller_config):
    calls = []

    class Sized(Reader):
        needs_shapes = True

        def setup(self, student_shapes, teacher_shapes):
            calls.append((student_shapes, teacher_shapes))

    with_heads(distiller_config, Sized(student=('logits', )), teacher=None)
    assert calls == [({}, {})]
