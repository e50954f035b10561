import copy
import math
import re

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models import ImageClassifier

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, LayerError, UserError
from mmat.models import NetworkOutputs, SoftTargetHead, WeightSchedule, build_network
from mmat.registry import MODELS

KD = dict(type='mmat.SoftTargetHead')
AT = dict(type='mmat.ActivationATHead', pairs=[(0, 0), (2, 2)], weight=50.)
LINEAR = dict(type='linear', initial=0.8, final=0.4)


def divergence(student, teacher, T, form='batchmean'):
    """Compute T^2 KL in float64; 'pre2018' also averages over the classes and doubles."""
    p, q = ((logits.double() / T).exp() for logits in (teacher, student))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    result = T**2 * (p * (p.log() - q.log())).sum(1).mean()
    return result if form == 'batchmean' else 2 * result / student.shape[1]


def logits(classes=7, count=5, requires_grad=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(count, classes, dtype=torch.float64, generator=generator)
    return values.requires_grad_(requires_grad)


def outputs(logits):
    return NetworkOutputs(logits=logits)


def batch(count=4):
    generator = torch.Generator().manual_seed(0)
    return dict(inputs=torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8),
                data_samples=BatchedSamples(torch.randint(0, 10, (count, ), generator=generator)))


def build(config):
    """Build a distiller in float64. Its networks are initialised with larger logits, so that classes differ."""
    torch.manual_seed(0)
    distiller = MODELS.build(config).double()
    distiller.init_weights()
    with torch.no_grad():
        for network in (distiller.student, distiller.prepare_teacher().network):
            network.head.fc.weight *= 100
    return distiller


def losses(distiller):
    return distiller(**distiller.data_preprocessor(batch()), mode='loss')


def total(log):
    # mmengine sums every key that contains 'loss'.
    return sum(torch.as_tensor(value).sum() for key, value in log.items() if 'loss' in key)


def run_network(network, inputs):
    """Return the outputs of the groups and the logits of a WRN, layer by layer."""
    backbone = network.backbone
    groups = [backbone.conv0(inputs)]
    for name in ('group0', 'group1', 'group2'):
        groups.append(getattr(backbone, name)(groups[-1]))
    return groups[1:], network.head.fc(F.relu(backbone.bn(groups[-1])).mean((2, 3)))


def plain_total(distiller, student, alpha, T, form='batchmean', beta=0.):
    """Compute the total loss of a student and a distiller's teacher in plain PyTorch."""
    data = distiller.data_preprocessor(batch())
    groups, scores = run_network(student, data['inputs'])
    with torch.no_grad():
        teacher_groups, teacher_scores = run_network(distiller.prepare_teacher().network, data['inputs'])
    soft = F.kl_div(F.log_softmax(scores / T, 1), F.softmax(teacher_scores / T, 1), reduction='sum') / len(scores)
    soft = T**2 * soft * (1 if form == 'batchmean' else 2 / scores.shape[1])
    attention = [F.normalize(group.pow(2).mean(1).flatten(1)) for group in (*groups, *teacher_groups)]
    transfer = sum((attention[i] - attention[i + 3]).pow(2).mean() for i in (0, 2))
    return alpha * soft + (1 - alpha) * F.cross_entropy(scores, data['data_samples'].gt_label) + beta * transfer


# Alone

def test_golden_loss():
    # The softened predictions are (3/4, 1/4) of the teacher and (1/2, 1/2) of the student, for both samples.
    student, teacher = torch.zeros(2, 2), torch.tensor([[2 * math.log(3), 0.]]).expand(2, 2)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    log = SoftTargetHead(T=2, alpha=0.25)(outputs(student), outputs(teacher))
    assert log['kd'].item() == pytest.approx(4 * kl, rel=1e-6)
    assert log['loss_kd'].item() == pytest.approx(0.25 * 4 * kl, rel=1e-6)
    # 2 / classes is 1 here.
    assert SoftTargetHead(T=2, form='pre2018')(outputs(student), outputs(teacher))['kd'].item() == pytest.approx(
        4 * kl, rel=1e-6)


@pytest.mark.parametrize('form', ['batchmean', 'pre2018'])
@pytest.mark.parametrize('T, alpha', [(4, 0.9), (1, 0.5), (0.5, 1), (20., 0.)])
def test_loss_and_gradient_match_the_formula(T, alpha, form):
    student, teacher = logits(requires_grad=True), logits(seed=1)
    log = SoftTargetHead(T, alpha, form)(outputs(student), outputs(teacher))
    expected = divergence(student, teacher, T, form)
    assert list(log) == ['loss_kd', 'kd']
    torch.testing.assert_close(log['kd'], expected.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(log['loss_kd'].detach(), alpha * expected.detach(), rtol=1e-9, atol=0)
    assert not log['kd'].requires_grad
    # With alpha 0 the loss has no gradient.
    assert log['loss_kd'].requires_grad == (alpha > 0)
    if alpha:
        mine, theirs = (torch.autograd.grad(value, student)[0] for value in (log['loss_kd'], alpha * expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_defaults_are_the_authors():
    student, teacher = logits(), logits(seed=1)
    head = SoftTargetHead()
    log = head(outputs(student), outputs(teacher))
    torch.testing.assert_close(log['loss_kd'], 0.9 * divergence(student, teacher, 4), rtol=1e-9, atol=0)
    assert head.task_weight == pytest.approx(0.1)


@pytest.mark.parametrize('classes', [2, 10, 100])
def test_pre2018_is_2_over_classes_times_batchmean(classes):
    student, teacher = outputs(logits(classes)), outputs(logits(classes, seed=1))
    today, older = (SoftTargetHead(form=form)(student, teacher)['loss_kd'] for form in ('batchmean', 'pre2018'))
    torch.testing.assert_close(older, 2 / classes * today, rtol=1e-9, atol=0)


@pytest.mark.parametrize('alpha, greatest', [(0.3, 0.3), (LINEAR, 0.8), (dict(type='linear', initial=0, final=1), 1)])
def test_the_students_losses_are_weighted_by_1_minus_alpha(alpha, greatest):
    head = SoftTargetHead(alpha=alpha)
    assert head.schedule.greatest == greatest
    for epoch in range(5):
        head.set_progress(epoch, 0, 4, 8)
        assert head.task_weight == pytest.approx(1 - head.weight)
        assert 0 <= head.task_weight <= 1


@pytest.mark.parametrize('shapes', [((5, 7), (5, 8)), ((5, 7), (4, 7)), ((5, 7), (5, 7, 1)), ((5, ), (5, ))])
def test_logits_that_do_not_match_are_refused(shapes):
    student, teacher = (outputs(torch.zeros(shape)) for shape in shapes)
    with pytest.raises(UserError, match=re.escape(f'{shapes[0]} and {shapes[1]}')):
        SoftTargetHead()(student, teacher)


# In a distiller

@pytest.mark.parametrize('form', ['batchmean', 'pre2018'])
@pytest.mark.parametrize('T, alpha', [(4, 0.9), (2, 0.25), (4, 0.), (4, 1.)])
def test_losses_are_weighted_by_alpha_and_1_minus_alpha(T, alpha, form, distiller_config):
    distiller = build(distiller_config(at_heads=[dict(KD, T=T, alpha=alpha, form=form)])).eval()
    result = losses(distiller)
    data = distiller.data_preprocessor(batch())
    with torch.no_grad():
        scores, teacher_scores = distiller.student(data['inputs']), distiller.teacher.network(data['inputs'])
    soft = divergence(scores, teacher_scores, T, form).item()
    task = F.cross_entropy(scores, data['data_samples'].gt_label).item()
    assert set(result) == {'loss_task', 'task', 'loss_kd', 'kd', 'accuracy_top-1'}
    # The two networks differ, so the test is not empty.
    assert soft > 0.1
    assert result['kd'].item() == pytest.approx(soft, rel=1e-9)
    assert result['loss_kd'].item() == pytest.approx(alpha * soft, rel=1e-9)
    assert result['loss_task'].item() == pytest.approx((1 - alpha) * task, rel=1e-9)


@pytest.mark.parametrize('heads, parts', [
    ([KD], ['loss_kd']),
    ([KD, AT], ['loss_kd', 'loss_at.backbone.group0', 'loss_at.backbone.group2']),
    ([AT, KD], ['loss_at.backbone.group0', 'loss_at.backbone.group2', 'loss_kd']),
    ([KD, dict(KD, T=2)], ['loss_kd', 'loss_kd_2']),
    ([AT, KD, AT, dict(KD, name='older', form='pre2018')], [
        'loss_at.backbone.group0', 'loss_at.backbone.group2', 'loss_kd', 'loss_at_2.backbone.group0',
        'loss_at_2.backbone.group2', 'loss_older']),
])
def test_the_students_own_loss_is_weighted_once_with_any_other_heads(heads, parts, distiller_config):
    distiller = build(distiller_config(at_heads=[dict(head) for head in heads])).eval()
    result = losses(distiller)
    assert [key for key in result if 'loss' in key] == ['loss_task', *parts]
    with torch.no_grad():
        task = distiller.student(**distiller.data_preprocessor(batch()), mode='loss')['loss'].item()
    assert result['loss_task'].item() == pytest.approx(0.1 * task, rel=1e-9)
    # The other losses are the same as alone.
    expected = 0.1 * task
    for head in heads:
        alone = losses(build(distiller_config(at_heads=[dict(head)])).eval())
        expected += total(alone).item() - alone['loss_task'].item()
    assert total(result).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('options, beta', [
    (dict(T=4., alpha=0.9), 0),
    (dict(T=4., alpha=0.9), 50),
    (dict(T=2., alpha=0.3, form='pre2018'), 0),
    (dict(T=1., alpha=0.5), 50),
    (dict(T=4., alpha=0.), 50),
    (dict(T=4., alpha=1.), 0),
])
def test_the_gradient_of_every_parameter_matches_plain_pytorch(options, beta, training, distiller_config):
    heads = [dict(KD, **options)] + ([dict(AT, weight=beta)] if beta else [])
    distiller = build(distiller_config(at_heads=heads)).train(training)
    # Each network has its own BN statistics, which train mode updates.
    plain = copy.deepcopy(distiller.student)
    result = total(losses(distiller))
    result.backward()
    expected = plain_total(distiller, plain, beta=beta, **options)
    expected.backward()
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=0)
    theirs = dict(plain.named_parameters())
    assert sum(parameter.grad.abs().sum() for parameter in theirs.values()) > 0
    for name, parameter in distiller.student.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-6, atol=1e-9, msg=name)


def test_a_scheduled_alpha_changes_both_weights(distiller_config):
    distiller = MODELS.build(distiller_config(at_heads=[dict(KD, alpha=LINEAR), AT])).eval()
    with torch.no_grad():
        task = distiller.student(**distiller.data_preprocessor(batch()), mode='loss')['loss'].item()
    for epoch, alpha in ((0, 0.8), (1, 0.7), (2, 0.6), (4, 0.4)):
        distiller.set_progress(epoch, 0, 4, 100)
        result = losses(distiller)
        assert result['kd.weight'].item() == pytest.approx(alpha)
        assert result['loss_kd'].item() == pytest.approx(alpha * result['kd'].item(), rel=1e-6)
        assert result['loss_task'].item() == pytest.approx((1 - alpha) * task, rel=1e-6)
        assert result['loss_at.backbone.group0'].item() == pytest.approx(
            50 * result['at.backbone.group0'].item(), rel=1e-6)


def test_without_soft_targets_the_students_own_losses_are_unchanged(distiller_config):
    distiller = MODELS.build(distiller_config(at_heads=[AT])).eval()
    with torch.no_grad():
        task = distiller.student(**distiller.data_preprocessor(batch()), mode='loss')['loss']
    assert torch.equal(losses(distiller)['loss_task'].detach(), task)


# Students of several losses

@pytest.mark.parametrize('own, scaled', [
    (lambda loss: dict(loss=[loss, 2 * loss]), dict(loss_task=[1, 2])),
    (lambda loss: dict(loss_ce=loss, loss_aux=3 * loss), dict(loss_ce=1, loss_aux=3)),
    (lambda loss: dict(loss=loss, aux_loss=[3 * loss]), dict(loss_task=1, aux_loss=[3])),
    # mmengine takes the mean of a tensor that is no scalar.
    (lambda loss: dict(loss=torch.stack([loss, 2 * loss])), dict(loss_task=[1, 2])),
])
def test_every_loss_of_the_student_is_scaled_and_nothing_else(own, scaled, distiller_config):

    class Student(ImageClassifier):

        def loss(self, inputs, data_samples):
            result = super().loss(inputs, data_samples)
            value = result.pop('loss')
            return {**own(value), **result, 'accuracy_as_tensor': value.detach(), 'raw': value.detach()}

    distiller = MODELS.build(distiller_config(at_heads=[dict(KD, alpha=0.75)])).eval()
    distiller.student.__class__ = Student
    result = losses(distiller)
    data = distiller.data_preprocessor(batch())
    with torch.no_grad():
        scores = distiller.student(data['inputs'])
    task = F.cross_entropy(scores, data['data_samples'].gt_label).item()
    accuracy = (scores.argmax(1) == data['data_samples'].gt_label).float().mean().item() * 100
    # One tensor has a raw value too.
    raw = {'task'} if isinstance(own(torch.ones(())).get('loss'), torch.Tensor) else set()
    assert set(result) == {*scaled, *raw, 'loss_kd', 'kd', 'accuracy_top-1', 'accuracy_as_tensor', 'raw'}
    for name, factor in scaled.items():
        values = [value.item() for value in result[name]] if isinstance(factor, list) else result[name].item()
        factors = [0.25 * task * each for each in factor] if isinstance(factor, list) else 0.25 * task * factor
        assert values == pytest.approx(factors, rel=1e-6), name
    assert float(result['accuracy_top-1'][0]) == accuracy
    assert result['accuracy_as_tensor'].item() == result['raw'].item() == pytest.approx(task, rel=1e-6)
    # mmengine's sum takes the mean of a tensor that is no scalar.
    parsed, _ = distiller.parse_losses(result)
    own_total = distiller.parse_losses(own(torch.tensor(task)))[0].item()
    assert parsed.item() == pytest.approx(0.25 * own_total + result['loss_kd'].item(), rel=1e-6)


# Two heads

@pytest.mark.parametrize('alphas', [(0.9, 0.5), (0.9, LINEAR), (0., 1.)])
def test_two_heads_that_disagree_are_refused_at_build(alphas, distiller_config):
    heads = [dict(KD, alpha=alpha) for alpha in alphas]
    with pytest.raises(ConfigError, match=r"1 - alpha.*'kd': .*'kd_2': "):
        MODELS.build(distiller_config(at_heads=heads))


@pytest.mark.parametrize('alphas', [(0.8, LINEAR), (LINEAR, dict(LINEAR, final=0.2)), (LINEAR, dict(LINEAR, end=2))])
def test_two_heads_that_will_disagree_are_refused_at_build(alphas, distiller_config):
    heads = [dict(KD, alpha=alpha) for alpha in alphas]
    with pytest.raises(ConfigError, match=r"1 - alpha.*'kd': .*'kd_2': "):
        MODELS.build(distiller_config(at_heads=heads))


@pytest.mark.parametrize('alpha', [0.75, LINEAR])
def test_two_heads_that_agree_share_the_students_loss(alpha, distiller_config):
    heads = [dict(KD, T=T, alpha=alpha) for T in (1., 4.)]
    distiller = MODELS.build(distiller_config(at_heads=heads)).eval()
    distiller.set_progress(1, 0, 8, 100)
    result = losses(distiller)
    with torch.no_grad():
        task = distiller.student(**distiller.data_preprocessor(batch()), mode='loss')['loss'].item()
    # LINEAR is at 0.75 too, after an eighth of the way from 0.8 to 0.4.
    assert result['loss_task'].item() == pytest.approx(0.25 * task, rel=1e-6)
    assert result['loss_kd'].item() == pytest.approx(0.75 * result['kd'].item(), rel=1e-6)
    assert result['loss_kd_2'].item() == pytest.approx(0.75 * result['kd_2'].item(), rel=1e-6)


# Refused

@pytest.mark.parametrize('options, kind, message', [
    (dict(T=0), UserError, r'\bT\b.*got 0'),
    (dict(T=-1), UserError, r'\bT\b.*got -1'),
    (dict(T=float('nan')), UserError, r'\bT\b.*got nan'),
    (dict(T='4'), UserError, r"\bT\b.*got '4'"),
    (dict(T=None), UserError, r'\bT\b.*got None'),
    (dict(alpha=-0.1), ConfigError, r'alpha.*\[0, 1\].*got -0.1'),
    (dict(alpha=1.1), ConfigError, r'alpha.*\[0, 1\].*got 1.1'),
    (dict(alpha=float('nan')), ConfigError, r'alpha.*\[0, 1\].*got nan'),
    (dict(alpha=True), ConfigError, r'alpha.*\[0, 1\].*got True'),
    (dict(alpha='0.9'), ConfigError, "alpha.*got '0.9'"),
    (dict(alpha=None), ConfigError, 'alpha.*got None'),
    (dict(alpha=dict(LINEAR, initial=1.5)), ConfigError, r"alpha.*\[0, 1\].*'initial': 1.5"),
    (dict(alpha=dict(LINEAR, final=1.5)), ConfigError, r"alpha.*\[0, 1\].*'final': 1.5"),
    (dict(alpha=dict(LINEAR, finall=0)), ConfigError, "'finall'.*'final'"),
    (dict(form='mean'), UserError, "form.*'batchmean', 'pre2018'.*got 'mean'"),
    (dict(name='kd_loss'), ConfigError, "'loss'.*got 'kd_loss'"),
])
def test_bad_options_are_refused(options, kind, message, distiller_config):
    with pytest.raises(kind, match=message):
        SoftTargetHead(**options)
    # The registry keeps the type.
    with pytest.raises(kind, match=message):
        MODELS.build(distiller_config(at_heads=[dict(KD, **options)]))


def test_alpha_may_be_a_schedule_object():
    assert SoftTargetHead(alpha=WeightSchedule('linear', 0.8)).task_weight == pytest.approx(0.2)


def headless(network_config, **kwargs):
    return {**network_config(**kwargs), 'head': None, 'neck': None}


def test_a_student_without_a_classification_head_is_refused_at_build(distiller_config, network_config):
    config = distiller_config(student=headless(network_config), at_heads=[KD])
    with pytest.raises(LayerError, match=r"student \(ImageClassifier\).*'head'.*'backbone'"):
        MODELS.build(config)
    # Attention transfer needs no classification head.
    MODELS.build({**config, 'at_heads': [AT]})


def test_a_teacher_without_a_classification_head_is_refused_before_training(distiller_config, network_config):
    teacher = build_network(headless(network_config, widen_factor=2))
    distiller = MODELS.build(distiller_config(teacher=teacher, at_heads=[KD]))
    with pytest.raises(LayerError, match=r"teacher \(ImageClassifier\).*'head'.*'backbone'"):
        distiller.prepare_teacher()
    MODELS.build(distiller_config(teacher=teacher, at_heads=[AT])).prepare_teacher()


def test_a_headless_teacher_stops_a_run_before_its_first_step(distiller_config, network_config, make_runner, tmp_path):
    config = headless(network_config, widen_factor=2)
    path = tmp_path / 'headless.pth'
    torch.save(dict(state_dict=build_network(config).state_dict()), path)
    runner = make_runner(distiller_config(teacher=dict(model=config, checkpoint=str(path)), at_heads=[KD]))
    with pytest.raises(LayerError, match=r"teacher \(ImageClassifier\).*'head'.*'backbone'"):
        runner.train()
    assert runner.iter == 0


def test_a_teacher_of_other_classes_is_refused(distiller_config, network_config):
    config = network_config(widen_factor=2)
    config['head'].update(num_classes=20)
    distiller = MODELS.build(distiller_config(teacher=build_network(config), at_heads=[KD]))
    with pytest.raises(UserError, match=r'\(4, 10\).*\(4, 20\)'):
        losses(distiller)


# Other networks

def test_logits_are_read_from_the_attribute_model(distiller_config):
    """Wrap another library's network in a classifier, as mmpretrain does with timm's."""

    class Wrapper(nn.Module):

        def __init__(self, scale):
            super().__init__()
            self.data_preprocessor = nn.Identity()
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
            self.scale = scale

        def init_weights(self):
            pass

        def forward(self, inputs, data_samples=None, mode='tensor'):
            out = self.model(self.scale * inputs)
            return dict(loss=F.cross_entropy(out, data_samples)) if mode == 'loss' else out

    torch.manual_seed(0)
    student, teacher = Wrapper(1.), Wrapper(5.)
    distiller = MODELS.build(distiller_config(student=student, teacher=teacher, at_heads=[dict(KD, alpha=0.5)]))
    inputs, labels = torch.rand(3, 3, 2, 2), torch.tensor([0, 4, 2])
    result = distiller(inputs, labels, mode='loss')
    with torch.no_grad():
        expected = divergence(student(inputs), teacher(inputs), 4)
        task = F.cross_entropy(student(inputs), labels)
    assert result['kd'].item() == pytest.approx(expected.item(), rel=1e-4)
    assert result['loss_task'].item() == pytest.approx(task.item() / 2, rel=1e-6)


def test_in_a_run_the_logged_total_is_the_sum_of_the_weighted_losses(distiller_config, make_runner):
    runner = make_runner(distiller_config(at_heads=[dict(KD, alpha=LINEAR), AT]))
    logged = []
    train_step = runner.model.train_step
    runner.model.train_step = lambda *args, **kwargs: logged.append(train_step(*args, **kwargs)) or logged[-1]
    runner.train()
    parts = ['loss_task', 'loss_kd', 'loss_at.backbone.group0', 'loss_at.backbone.group2']
    assert [log['kd.weight'].item() for log in logged] == pytest.approx([0.8, 0.8, 0.6, 0.6])
    for log in logged:
        assert log['loss'].item() == pytest.approx(sum(log[part].item() for part in parts), rel=1e-6)
