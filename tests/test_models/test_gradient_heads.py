import copy
import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_leaves

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, UserError
from mmat.models import NIN, BaseATHead, WideResNet, build_network
from mmat.models import collect_outputs as collect_outputs_module
from mmat.models.distillers import distiller as distiller_module
from mmat.registry import MODELS

KINDS = dict(gradat='mmat.GradientATHead', minl2='mmat.GradientNormHead', flipsym='mmat.FlipSymmetryHead')


class Smooth(nn.Module):
    """A network that is twice differentiable everywhere, unlike one with ReLU."""

    stage_names = ('conv0', 'conv1')
    activation = nn.Tanh

    def __init__(self):
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        for conv in (self.conv0, self.conv1):
            nn.init.normal_(conv.weight, std=0.3)
        self.act = self.activation()

    def forward(self, x):
        return (self.act(self.conv1(self.act(self.conv0(x)))), )


class Shared(Smooth):
    """A network that runs one convolution and one BN twice."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.act(self.bn(self.conv1(self.act(self.conv0(x)))))
        return (self.act(self.bn(self.conv1(x))), )


class Unrecorded(Smooth):

    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class Detached(Smooth):

    def forward(self, x):
        return (super().forward(x.detach())[0], )


class Once(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class OnceSquare(nn.Module):

    def forward(self, x):
        return Once.apply(x)


class DifferentiableOnce(Smooth):
    activation = OnceSquare


class FixedSize(nn.Module):
    """A network that accepts only images of 8x8 pixels."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x):
        return (self.linear(x.flatten(1)).tanh()[..., None, None], )


WIDTHS = ((4, 4, 4), ) * 3
BACKBONES = dict(
    nin=lambda: NIN(WIDTHS, norm_cfg=None), nin_bn=lambda: NIN(WIDTHS), nin_wide=lambda: NIN(((8, 8, 8), ) * 3),
    wrn=lambda: WideResNet(10), smooth=Smooth, shared=Shared, unrecorded=Unrecorded, detached=Detached,
    once=DifferentiableOnce, fixed=FixedSize)
WITH_BN = ('nin_bn', 'wrn', 'shared')


def network(name, seed=4, mean=(0., 0., 0.), std=(1., 1., 1.)):
    torch.manual_seed(seed)
    result = build_network(dict(
        type='mmpretrain.ImageClassifier', backbone=BACKBONES[name](),
        data_preprocessor=dict(type='mmat.BatchPreprocessor', mean=mean, std=std),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmat.LinearClsHead', num_classes=10,
                  in_channels=dict(wrn=64, nin_wide=8).get(name, 4), cal_acc=True)))
    result.init_weights()
    # Larger weights than at initialisation, so that gradients are not tiny, and different running statistics.
    nn.init.normal_(result.head.fc.weight, std=0.5 if name == 'wrn' else 2)
    for module in result.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return result


def head(kind, weight=3., **kwargs):
    return dict(type=KINDS[kind], weight=weight, **kwargs)


def build(student, heads, teacher=None):
    """Build a distiller in float64, in train mode."""
    distiller = MODELS.build(dict(
        type='mmat.Distiller', student=copy.deepcopy(student), teacher=copy.deepcopy(teacher), at_heads=heads))
    distiller.prepare_teacher()
    return distiller.double().train()


def images(count=4, size=8):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64),
            torch.randint(0, 10, (count, ), generator=generator))


def run(distiller, size=8):
    inputs, labels = images(size=size)
    return distiller(inputs, BatchedSamples(labels), mode='loss')


def total(losses):
    # mmengine sums every key that contains 'loss'.
    return sum(value for key, value in losses.items() if 'loss' in key)


def gradients(value, student):
    # As in training. torch.autograd.grad would skip operations that are not differentiable.
    student.zero_grad()
    value.backward()
    return {name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in student.named_parameters()}


def same_values(result, expected, rtol=1e-10, atol=1e-12):
    """Assert equal keys and close values; bit-identical with rtol = atol = 0."""
    assert result.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(result[key], value, rtol=rtol, atol=atol, msg=lambda m, key=key: f'{key}: {m}')


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def plain_losses(network, inputs, labels):
    """Compute the loss of each sample."""
    return F.cross_entropy(network.head.fc(network.backbone(inputs)[-1].mean((2, 3))), labels, reduction='none')


def plain_gradient(network, inputs, labels, one_by_one):
    """Compute d(loss of sample i)/d(image i), or of all losses under batch statistics, which mix samples."""
    inputs = inputs.detach().requires_grad_()
    if one_by_one:
        own = [plain_losses(network, inputs[i:i + 1], labels[i:i + 1])[0] for i in range(len(inputs))]
        return torch.stack([torch.autograd.grad(loss, inputs, create_graph=True)[0][i] for i, loss in enumerate(own)])
    return torch.autograd.grad(plain_losses(network, inputs, labels).sum(), inputs, create_graph=True)[0]


def plain_total(student, teacher, kind, form, beta, inputs, labels, one_by_one):
    """Compute the task loss plus ``beta / 2`` of the norm, and the norm alone, in plain PyTorch."""
    difference = plain_gradient(student, inputs, labels, one_by_one)
    if kind == 'gradat':
        difference = difference - plain_gradient(teacher, inputs, labels, one_by_one=True).detach()
    if kind == 'flipsym':
        difference = difference - plain_gradient(student, inputs.flip(3), labels, one_by_one).flip(3)
    norms = (difference**2).sum((1, 2, 3))
    norm = norms.mean() if form == 'squared' else norms.sqrt().mean()
    return plain_losses(student, inputs, labels).mean() + beta / 2 * norm, norm


# Against plain PyTorch

@pytest.mark.parametrize('form', ['paper', 'squared'])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['nin', 'nin_bn', 'wrn', 'smooth', 'shared'])
def test_total_and_gradients_match_plain_pytorch(name, kind, form):
    student, teacher = network(name), network('wrn', seed=1)
    distiller = build(student, [head(kind, form=form)], teacher)
    losses = run(distiller)
    student, teacher = student.double().train(), teacher.double().eval()
    expected, norm = plain_total(student, teacher, kind, form, 3, *images(), one_by_one=name not in WITH_BN)
    # The norm is a good part of the total.
    assert norm > 0.02
    assert set(losses) == {'loss_task', f'loss_{kind}', kind, 'accuracy_top-1'}
    torch.testing.assert_close(total(losses), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(losses[kind], norm.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(losses[f'loss_{kind}'], 1.5 * norm, rtol=1e-10, atol=0)
    result = gradients(total(losses), distiller.student)
    same_values(result, gradients(expected, student), rtol=1e-8, atol=1e-10)
    assert all(value.abs().max() > 1e-6 for key, value in result.items() if 'conv' in key and key.endswith('weight'))


@pytest.mark.parametrize('form', ['paper', 'squared'])
@pytest.mark.parametrize('kind', KINDS)
def test_gradients_are_finite_differences(kind, form):
    distiller = build(network('smooth'), [head(kind, form=form)], network('smooth', seed=1))
    result = gradients(total(run(distiller)), distiller.student)
    with torch.no_grad():
        for key, index in (('backbone.conv0.weight', (0, 1, 2, 0)), ('backbone.conv1.weight', (3, 0, 1, 1)),
                           ('backbone.conv0.bias', (1, )), ('head.fc.weight', (2, 3))):
            parameter, values = distiller.student.get_parameter(key), []
            for step in (1e-5, -1e-5):
                parameter[index] += step
                values.append(total(run(distiller)))
                parameter[index] -= step
            difference = (values[0] - values[1]) / 2e-5
            torch.testing.assert_close(result[key][index], difference, rtol=1e-6, atol=1e-7)


def test_the_loss_falls_along_its_own_gradient():
    distiller = build(network('smooth'), [head('gradat', form='squared')], network('smooth', seed=1))
    parameters = [*distiller.student.parameters()]
    values = []
    for _ in range(20):
        values.append(run(distiller)['loss_gradat'])
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(values[-1], parameters)):
                parameter -= 0.05 * gradient
    assert all(after < before for before, after in zip(values, values[1:]))
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize('form', ['paper', 'squared'])
def test_equal_networks_have_loss_0_and_the_tasks_gradient(form):
    # The norm has no derivative at 0; it must not become NaN.
    student = network('nin')
    distiller = build(student, [head('gradat', form=form)], student)
    losses = run(distiller)
    assert losses['gradat'] == 0
    task = plain_losses(student.double(), *images()).mean()
    same_values(gradients(total(losses), distiller.student), gradients(task, student))


@pytest.mark.parametrize('size', [8, 16])
def test_norms_do_not_depend_on_the_size_of_the_batch(size):
    # The loss of each sample is differentiated, and norms are averaged.
    distiller = build(network('nin'), [head(kind) for kind in KINDS], network('wrn', seed=1))
    inputs, labels = images(size=size)
    parts = [distiller(inputs[i:i + 1], BatchedSamples(labels[i:i + 1]), mode='loss') for i in range(4)]
    together = distiller(inputs, BatchedSamples(labels), mode='loss')
    for kind in KINDS:
        mean = sum(part[kind] for part in parts) / 4
        torch.testing.assert_close(together[kind], mean, rtol=1e-10, atol=0)


# The teacher

class Recorder(BaseATHead):
    """A head that stores its inputs."""

    student_wants = teacher_wants = ('logits', 'targets', 'input_gradient', 'flipped_input_gradient')

    def loss(self, student, teacher):
        self.student, self.teacher = student, teacher
        return student.logits.mean()


STATISTICS = [dict(mean=(8., 1., -4.), std=(2., 4., 8.)), dict(mean=(1., 2., -2.), std=(16., 4., 2.))]


@pytest.mark.parametrize('flipped', [False, True])
def test_the_teachers_gradient_is_with_respect_to_the_students_image(flipped):
    teacher = network('wrn', seed=1, **STATISTICS[1])
    distiller = build(network('nin', **STATISTICS[0]), [Recorder([(2, 2)])], teacher)
    run(distiller)
    mean, std, own_mean, own_std = (
        torch.tensor(each[name], dtype=torch.float64).view(3, 1, 1) for each in STATISTICS for name in ('mean', 'std'))
    inputs, labels = images()
    own = (inputs * std + mean - own_mean) / own_std
    gradient = plain_gradient(teacher.double().eval(), own.flip(3) if flipped else own, labels, one_by_one=True)
    expected = (gradient.flip(3) if flipped else gradient).detach() * std / own_std
    outputs = distiller.at_heads[0].teacher
    result = outputs.flipped_input_gradient if flipped else outputs.input_gradient
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


def test_the_teacher_is_unchanged_and_its_outputs_have_no_gradient():
    teacher = network('nin_bn', seed=1)
    distiller = build(network('nin'), [Recorder([(0, 0), (2, 2)]), *map(head, KINDS)], teacher)
    mine = distiller.teacher.network
    mine.train()  # as other code that shares the network may do
    total(run(distiller)).backward()
    assert not any(module.training for module in mine.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in mine.parameters())
    same_values(mine.state_dict(), teacher.double().state_dict(), 0, 0)

    def tensors(outputs):
        return [*outputs.features.values(), outputs.logits, outputs.targets, outputs.input_gradient,
                outputs.flipped_input_gradient]

    recorder = distiller.at_heads[0]
    assert len(tensors(recorder.teacher)) >= 6
    assert not any(tensor.requires_grad for tensor in tensors(recorder.teacher))
    assert [tensor.requires_grad for tensor in tensors(recorder.student)].count(False) == 1  # the targets
    assert all(parameter.grad is not None for parameter in distiller.student.parameters())


@pytest.mark.parametrize('kind', ['minl2', 'flipsym'])
def test_a_constraint_on_the_student_needs_no_teacher(kind):
    student = network('nin')
    losses = run(build(student, [head(kind)]))
    expected = run(build(student, [head(kind)], network('wrn', seed=1)))
    assert losses.keys() == expected.keys() and losses[kind] == expected[kind]


def test_gradient_transfer_needs_a_teacher():
    with pytest.raises(ConfigError, match="'gradat'.*teacher=dict"):
        build(network('nin'), [head('minl2'), head('gradat')])


# The flipped image

@pytest.mark.parametrize('name', ['nin_bn', 'wrn', 'shared'])
@pytest.mark.parametrize('weight', [0., 3.])
def test_the_flipped_image_does_not_update_bns_statistics(name, weight):
    student = network(name)
    distiller = build(student, [head('flipsym', weight), head('minl2')])
    before = copied(student.double().train())
    total(run(distiller)).backward()
    inputs, labels = images()
    student(inputs, BatchedSamples(labels), mode='loss')
    same_values(dict(distiller.student.named_buffers()), dict(student.named_buffers()), 0, 0)
    changed = [key for key, _ in student.named_buffers() if 'data_preprocessor' not in key]
    assert changed and not any(torch.equal(before[key], student.state_dict()[key]) for key in changed)


@pytest.mark.parametrize('symmetric', [True, False])
def test_a_symmetric_network_has_symmetric_gradients(symmetric):
    student = network('nin')
    if symmetric:
        with torch.no_grad():
            for parameter in student.parameters():
                if parameter.dim() == 4:
                    parameter.copy_((parameter + parameter.flip(3)) / 2)
    # The windows of the poolings are symmetric for this width: 11, 5, 2.
    losses = run(build(student, [head('flipsym'), head('minl2')]), size=11)
    assert losses['minl2'] > 0.05
    if symmetric:
        assert losses['flipsym'] < 1e-12 * losses['minl2']
    else:
        assert losses['flipsym'] > 0.05 * losses['minl2']


# Shared passes

@pytest.fixture
def events(monkeypatch):
    """Record each network that runs in a step, and the ``create_graph`` of each gradient."""
    seen = []
    input_gradient = collect_outputs_module.input_gradient

    def recorded(loss, inputs, create_graph=False):
        seen.append(create_graph)
        return input_gradient(loss, inputs, create_graph)

    monkeypatch.setattr(collect_outputs_module, 'input_gradient', recorded)
    return seen


def watch(distiller, events):
    networks = dict(student=distiller.student)
    if distiller.teacher is not None:
        networks['teacher'] = distiller.teacher.network
    for owner, network in networks.items():
        network.backbone.register_forward_pre_hook(lambda module, args, owner=owner: events.append(owner))
    return distiller


@pytest.mark.parametrize('kinds, expected', [
    (['minl2'], ['student', True]),
    (['gradat'], ['teacher', False, 'student', True]),
    (['flipsym'], ['student', True, 'student', True]),
    (['minl2', 'gradat', 'minl2'], ['teacher', False, 'student', True]),
    (['gradat', 'minl2', 'flipsym'], ['teacher', False, 'student', True, 'student', True]),
    (['flipsym', 'flipsym', 'minl2'], ['student', True, 'student', True]),
])
def test_each_network_and_each_gradient_runs_once_for_all_heads(kinds, expected, events):
    teacher = network('wrn', seed=1) if 'gradat' in kinds else None
    distiller = watch(build(network('nin_bn'), [head(kind) for kind in kinds], teacher), events)
    losses = run(distiller)
    assert events == expected
    total(losses).backward()
    assert events == expected


def test_heads_together_give_the_losses_of_each_alone():
    student, teacher = network('nin_bn'), network('wrn', seed=1)
    weights = dict(zip(KINDS, (3., 0.7, 20.)))
    distiller = build(student, [head(kind, weights[kind]) for kind in KINDS], teacher)
    losses = run(distiller)
    result = gradients(total(losses), distiller.student)
    expected = {key: torch.zeros_like(value) for key, value in result.items()}
    for kind in KINDS:
        alone = build(student, [head(kind, weights[kind])], teacher)
        log = run(alone)
        assert log['loss_task'] == losses['loss_task']
        torch.testing.assert_close(losses[f'loss_{kind}'], log[f'loss_{kind}'], rtol=1e-12, atol=0)
        for key, value in gradients(total(log) - 2 / 3 * log['loss_task'], alone.student).items():
            expected[key] += value
    same_values(result, expected)


def test_beside_soft_targets_and_activations():
    student, teacher = network('nin_bn'), network('nin_wide', seed=1)
    heads = [head('gradat'), dict(type='mmat.SoftTargetHead', T=2, alpha=0.75),
             dict(type='mmat.ActivationATHead', pairs=[(0, 0), (2, 2)], weight=50.), head('flipsym')]
    distiller = build(student, heads, teacher)
    losses = run(distiller)
    result = gradients(total(losses), distiller.student)

    inputs, labels = images()
    teacher = teacher.double().eval()
    plain = copy.deepcopy(student).double().train()
    # J is the gradient of the student's unweighted loss.
    terms = dict(loss_task=0.25 * plain_losses(plain, inputs, labels).mean())
    for kind in ('gradat', 'flipsym'):
        terms[f'loss_{kind}'] = 1.5 * plain_total(plain, teacher, kind, 'paper', 3, inputs, labels, False)[1]
    soft = [each(inputs).div(2).softmax(1) for each in (plain, teacher)]
    terms['loss_kd'] = 0.75 * 4 * (soft[1] * (soft[1] / soft[0]).log()).sum(1).mean()
    expected = gradients(sum(terms.values()), plain)
    at = run(only := build(student, [heads[2]], teacher))
    for key, value in gradients(total(at) - at['loss_task'], only.student).items():
        expected[key] = expected[key] + value
        assert value.abs().max() > 0 or 'head' in key
    for key, value in terms.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-9, atol=0)
    for key in ('loss_at.backbone.block0', 'loss_at.backbone.block2'):
        torch.testing.assert_close(losses[key], at[key], rtol=1e-12, atol=0)
    assert {key for key in losses if 'loss' in key} == {*terms, 'loss_at.backbone.block0', 'loss_at.backbone.block2'}
    same_values(result, expected, rtol=1e-8, atol=1e-10)


# The weight

@pytest.mark.parametrize('kinds', [['gradat'], ['minl2'], ['flipsym'], ['gradat', 'minl2', 'flipsym']])
def test_with_weight_0_the_gradient_is_the_tasks_without_a_second_derivative(kinds, events):
    student, teacher = network('nin_bn'), network('wrn', seed=1)
    distiller = build(student, [head(kind, 0.) for kind in kinds], teacher)
    losses = run(distiller)
    assert events and set(events) == {False}
    weighed = run(build(student, [head(kind) for kind in kinds], teacher))
    for kind in kinds:
        assert losses[f'loss_{kind}'] == 0 and losses[kind] == weighed[kind] > 0
    inputs, labels = images()
    student.double().train()
    task = student(inputs, BatchedSamples(labels), mode='loss')['loss']
    same_values(gradients(total(losses), distiller.student), gradients(task, student), 0, 0)


def test_a_head_with_weight_0_has_no_gradient_beside_another():
    student = network('nin_bn')
    distiller = build(student, [head('minl2', 0.), head('flipsym')])
    alone = build(student, [head('flipsym')])
    losses = run(distiller)
    assert losses['minl2'] > 0 and not losses['loss_minl2'].requires_grad
    same_values(gradients(total(losses), distiller.student), gradients(total(run(alone)), alone.student), 0, 0)


def test_a_weight_scheduled_to_0_needs_no_second_derivative(events):
    distiller = build(network('nin'), [head('minl2', dict(type='linear', initial=2., final=0.))])
    for epoch, weight in ((0, 2.), (1, 1.), (2, 0.)):
        distiller.set_progress(epoch, 0, 2, 2)
        losses = run(distiller)
        assert losses['minl2.weight'] == weight
        assert losses['loss_minl2'] == weight / 2 * losses['minl2']
    assert events == [True, True, False]


@pytest.mark.parametrize('kinds', [['gradat'], ['minl2', 'flipsym']])
def test_a_training_with_weight_0_is_bit_identical_to_the_baseline(kinds, network_config, teacher_file, make_runner):
    heads = [head(kind, 0.) for kind in kinds]
    teacher = dict(model=network_config(widen_factor=2), checkpoint=teacher_file)
    model = dict(type='mmat.Distiller', student=network_config(), at_heads=heads, teacher=teacher)
    states = [make_runner(config, name, epochs=1).train().state_dict()
              for config, name in ((network_config(), 'alone'), (model, 'under'))]
    same_values(states[1], states[0], 0, 0)


def test_a_training_differs_from_the_baseline_and_resumes_bit_identically(
        network_config, teacher_file, make_runner):
    teacher = dict(model=network_config(widen_factor=2), checkpoint=teacher_file)
    config = dict(type='mmat.Distiller', student=network_config(), at_heads=[head(kind, 0.1) for kind in KINDS],
                  teacher=teacher)
    runner = make_runner(config)
    state = copied(runner.train())
    baseline = make_runner(network_config(), 'alone').train().state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert not torch.equal(state['backbone.conv0.weight'], baseline['backbone.conv0.weight'])
    resumed = make_runner(config, 'again', resume=True, load_from=f'{runner.work_dir}/epoch_1.pth')
    same_values(resumed.train().state_dict(), state, 0, 0)


# Precision

def test_autocast_changes_no_bit(monkeypatch):
    logged = []
    monkeypatch.setattr(distiller_module, 'print_log', lambda message, *args, **kwargs: logged.append(message))
    student, teacher = network('nin_bn'), network('wrn', seed=1)
    inputs, labels = images()
    results, task = [], []
    for context in (nullcontext(), torch.autocast('cpu', dtype=torch.bfloat16)):
        assert not logged
        distiller = build(student, [head(kind) for kind in KINDS], teacher).float()
        plain = copy.deepcopy(student).train()
        with context:
            losses = [distiller(inputs.float(), BatchedSamples(labels), mode='loss') for _ in range(2)][0]
            task.append(plain(inputs.float(), BatchedSamples(labels), mode='loss')['loss'].item())
            # Autocast is still enabled.
            assert torch.is_autocast_enabled('cpu') == isinstance(context, torch.autocast)
        losses['accuracy_top-1'] = losses['accuracy_top-1'][0]
        results.append((losses, gradients(total(losses), distiller.student)))
    for alone, under in zip(*results):
        same_values(under, alone, 0, 0)
    # Autocast does change the student alone.
    assert task[0] != task[1]
    # Logged once, not at each step.
    message, = logged
    assert 'float32' in message and 'autocast' in message


class TeacherGradient(BaseATHead):
    """A head that reads the input gradient of the teacher only."""

    teacher_wants = ('input_gradient', )

    def loss(self, student, teacher):
        return teacher.input_gradient.square().sum()


def test_autocast_changes_no_bit_of_a_teachers_gradient_alone():
    inputs, labels = images()
    values = []
    for context in (nullcontext(), torch.autocast('cpu', dtype=torch.bfloat16)):
        distiller = build(network('nin'), [TeacherGradient()], network('nin_bn', seed=1)).float()
        with context:
            values.append(distiller(inputs.float(), BatchedSamples(labels), mode='loss')['at'])
    assert values[0] == values[1]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_refused(kind, dtype):
    distiller = build(network('nin'), [head(kind)], network('wrn', seed=1)).to(dtype)
    inputs, labels = images()
    with pytest.raises(ConfigError, match=f'float32.*got {dtype}.*autocast'):
        distiller(inputs.to(dtype), BatchedSamples(labels), mode='loss')


@pytest.mark.parametrize('training', [True, False])
def test_values_are_the_same_under_no_grad(training, events):
    distiller = build(network('nin_bn'), [head(kind) for kind in KINDS], network('wrn', seed=1)).train(training)
    expected = run(distiller)
    events.clear()
    with torch.no_grad():
        losses = run(distiller)
        assert not torch.is_grad_enabled()
    assert events == [False] * 3
    assert losses.keys() == expected.keys()
    for key in ('loss_task', *KINDS, *(f'loss_{kind}' for kind in KINDS)):
        assert losses[key] == expected[key], key


def test_a_finished_step_leaves_no_hook_and_no_gradient_on_the_images():
    distiller = build(network('nin'), [head(kind) for kind in KINDS], network('wrn', seed=1))
    inputs, labels = images()
    total(distiller(inputs, BatchedSamples(labels), mode='loss')).backward()
    assert not inputs.requires_grad and inputs.grad is None
    for each in (distiller.student, distiller.teacher.network):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in each.modules())


# Refused

@pytest.mark.parametrize('kind', KINDS)
def test_options(kind):
    with pytest.raises(UserError, match="form.*'paper', 'squared'.*got 'l2'"):
        MODELS.build(head(kind, form='l2'))
    with pytest.raises(ConfigError, match='weight.*got -1'):
        MODELS.build(head(kind, -1))
    with pytest.raises(TypeError, match='weight'):
        MODELS.build(dict(type=KINDS[kind]))
    assert 'loss_mine' in run(build(network('smooth'), [head(kind, name='mine')], network('smooth', 1)))


@pytest.mark.parametrize('kind', KINDS)
def test_a_frozen_student_is_refused_when_built(kind):
    student = network('nin').requires_grad_(False)
    with pytest.raises(ConfigError, match=r'student \(ImageClassifier\)'):
        build(student, [head(kind)], network('wrn', seed=1))


def test_a_partly_frozen_student_trains_the_rest():
    student = network('nin')
    student.backbone.requires_grad_(False)
    distiller = build(student, [head('minl2')])
    run(distiller)['loss_minl2'].backward()
    assert {name for name, parameter in distiller.student.named_parameters() if parameter.grad is not None} >= {
        'head.fc.weight', 'head.fc.bias'}
    assert all(parameter.grad is None for parameter in distiller.student.backbone.parameters())


@pytest.mark.parametrize('name', ['unrecorded', 'detached', 'once'])
@pytest.mark.parametrize('kind', KINDS)
def test_a_student_that_is_not_twice_differentiable_is_refused_when_built(kind, name):
    with pytest.raises(ConfigError, match=r'student \(ImageClassifier\).*twice') as error:
        build(network(name), [head(kind)], network('wrn', seed=1))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['unrecorded', 'detached'])
def test_a_teacher_that_is_not_differentiable_is_refused_before_the_first_step(name):
    distiller = MODELS.build(dict(
        type='mmat.Distiller', student=network('nin'), teacher=network(name), at_heads=[head('gradat')]))
    with pytest.raises(ConfigError, match=r'teacher \(ImageClassifier\)') as error:
        distiller.prepare_teacher()
    assert 'twice' not in str(error.value)


def test_a_teacher_that_is_differentiable_once_is_enough():
    losses = run(build(network('nin'), [head('gradat')], network('once')))
    assert math.isfinite(losses['gradat']) and losses['loss_gradat'].requires_grad


@pytest.mark.parametrize('name', ['unrecorded', 'detached', 'once'])
def test_heads_without_gradients_take_any_network(name):
    heads = [dict(type='mmat.ActivationATHead', pairs=[(1, 1)]), dict(type='mmat.SoftTargetHead')]
    assert 'loss_kd' in run(build(network(name), heads, network(name, seed=1)).eval())


@pytest.mark.parametrize('kind', KINDS)
def test_a_network_that_accepts_no_usual_size_is_not_checked(kind):
    student, teacher = network('fixed'), network('fixed', seed=1)
    losses = run(build(student, [head(kind)], teacher))
    expected = plain_total(student.double(), teacher.double(), kind, 'paper', 3, *images(), one_by_one=True)[0]
    torch.testing.assert_close(total(losses), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize('name, refused', [('wrn', False), ('once', True)])
def test_building_changes_nothing(name, refused):
    student, teacher = network(name), network('nin_bn', seed=1)
    student.backbone.dropout = nn.Dropout()
    student.train()
    student.backbone.conv0.eval().requires_grad_(False)
    networks = (student, teacher)
    modes = [[module.training for module in each.modules()] for each in networks]
    frozen = [parameter.requires_grad for parameter in student.parameters()]
    states, random = [copied(each) for each in networks], torch.get_rng_state()
    config = dict(type='mmat.Distiller', student=student, teacher=teacher, at_heads=[head(kind) for kind in KINDS])
    if refused:
        with pytest.raises(ConfigError, match=r'student \(ImageClassifier\).*twice'):
            MODELS.build(config)
    else:
        MODELS.build(config)
    assert [[module.training for module in each.modules()] for each in networks] == modes
    assert [parameter.requires_grad for parameter in student.parameters()] == frozen
    if not refused:
        # It puts the teacher in eval mode permanently.
        MODELS.build(config).prepare_teacher()
        assert [module.training for module in student.modules()] == modes[0]
    assert torch.equal(torch.get_rng_state(), random)
    for each, state in zip(networks, states):
        same_values(each.state_dict(), state, 0, 0)
        assert all(parameter.grad is None for parameter in each.parameters())
        assert not any(module._forward_hooks for module in each.modules())


# Networks of other kinds

class Plain(nn.Module):
    """A plain module without parse_losses; one of its two losses is a list."""

    def __init__(self, output):
        super().__init__()
        self.data_preprocessor = nn.Identity()
        self.conv, self.dropout, self.output = nn.Conv2d(3, 4, 3), nn.Dropout(0.5), output

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = self.dropout(self.conv(inputs)).square()
        if mode == 'loss':
            return dict(loss_a=out.mean(), loss_b=[out.square().mean(), out.sin().mean()], size=out.sum())
        return self.output(out)


def test_a_student_that_is_a_plain_module_has_a_gradient():
    distiller = build(Plain(lambda out: out), [dict(type=KINDS['minl2'], weight=2.)]).eval()
    inputs = images()[0][:3]
    values = distiller(inputs, None, mode='loss')
    inputs.requires_grad_()
    loss = distiller.student(inputs, mode='loss')
    gradient, = torch.autograd.grad(3 * (loss['loss_a'] + sum(loss['loss_b'])), inputs)
    torch.testing.assert_close(values['loss_minl2'], gradient.flatten(1).norm(dim=1).mean())


def test_an_output_without_tensors_is_not_checked():
    assert build(Plain(lambda out: 'nothing'), [dict(type=KINDS['minl2'], weight=2.)])


def test_the_flipped_pass_does_not_advance_the_random_stream():
    states = []
    for kind in ('minl2', 'flipsym'):
        distiller = build(Plain(lambda out: out), [dict(type=KINDS[kind], weight=2.)]).train()
        torch.manual_seed(0)
        distiller(images()[0], None, mode='loss')
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_building_keeps_existing_gradients():
    student = Plain(lambda out: out)
    weight, bias = student.conv.parameters()
    weight.grad = torch.ones_like(weight)
    MODELS.build(dict(type='mmat.Distiller', student=student, at_heads=[dict(type=KINDS['minl2'], weight=2.)]))
    assert torch.equal(weight.grad, torch.ones_like(weight)) and bias.grad is None


@pytest.mark.parametrize('kind', KINDS)
def test_no_output_keeps_the_graph_under_no_grad(kind):
    distiller = build(network('smooth'), [dict(type=KINDS[kind], weight=2.)], network('smooth'))
    with torch.no_grad():
        result = run(distiller)
    assert 'loss_task' in result and not any(value.requires_grad for value in tree_leaves(result))


def test_dropout_draws_the_same_mask_for_the_flipped_image():
    # A network with symmetric convolutions has a difference of 0, with dropout too.
    distiller = build(network('smooth'), [dict(type=KINDS['flipsym'], weight=2.)])
    for conv in (distiller.student.backbone.conv0, distiller.student.backbone.conv1):
        conv.weight.data = (conv.weight.data + conv.weight.data.flip(-1)) / 2
    distiller.student.neck = nn.Sequential(distiller.student.neck, Dropped())
    assert run(distiller)['flipsym'].item() == pytest.approx(0, abs=1e-12)
    assert run(distiller)['loss_task'] != run(distiller)['loss_task']


class Dropped(nn.Module):

    def forward(self, features):
        return tuple(F.dropout(feature, 0.5) for feature in features)
