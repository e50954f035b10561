import copy
import random

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.hooks import Hook

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, LayerError, MissingFileError, UserError
from mmat.models import FullActivationHead, NetworkOutputs, build_network
from mmat.registry import MODELS

FACTT = dict(type='mmat.FullActivationHead', pairs=[(0, 0), (1, 1), (2, 2)])
LAYERS = ['backbone.group0', 'backbone.group1', 'backbone.group2']
# Channels of WRN-10-1 and WRN-10-2.
WIDTHS = [(16, 32), (32, 64), (64, 128)]


def batch(count=4):
    generator = torch.Generator().manual_seed(0)
    return dict(inputs=torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8),
                data_samples=BatchedSamples(torch.randint(0, 10, (count, ), generator=generator)))


def losses(distiller):
    return distiller(**distiller.data_preprocessor(batch()), mode='loss')


def activation(channels, size, requires_grad=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, channels, size, size, dtype=torch.float64, generator=generator).requires_grad_(requires_grad)


def plain_distance(student, teacher, weight=None):
    """Compute the distance sample by sample, with the projection as a matrix on the channels."""
    total = 0
    for s, t in zip(student, teacher):
        s = s if weight is None else torch.einsum('oc,chw->ohw', weight[:, :, 0, 0], s)
        total = total + (s / s.pow(2).sum().sqrt() - t / t.pow(2).sum().sqrt()).pow(2).sum()
    return total / len(student)


def ready_head(student, teacher, **options):
    """Build a head for these activations in float64."""
    torch.manual_seed(0)
    head = FullActivationHead([('a', 'b')], **options)
    head.setup({'a': student.shape}, {'b': teacher.shape})
    return head.double()


def given(head, student, teacher):
    return head(NetworkOutputs(features={'a': student}), NetworkOutputs(features={'b': teacher}))


def rng_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def checkpoint_of(runner, name='epoch_2.pth'):
    return torch.load(f'{runner.work_dir}/{name}', weights_only=True)


# Projections

def test_a_1x1_convolution_where_the_widths_differ(distiller_config):
    projections = MODELS.build(distiller_config(at_heads=[FACTT])).at_heads[0].projections
    assert [type(projection) for projection in projections] == [nn.Conv2d] * 3
    for projection, (width, teacher_width) in zip(projections, WIDTHS):
        assert projection.weight.shape == (teacher_width, width, 1, 1)
        assert projection.bias is None and projection.stride == (1, 1) and projection.padding == (0, 0)


def test_the_identity_where_they_match(distiller_config, network_config):
    # group1 of the student is as wide as group0 of the teacher.
    head = dict(FACTT, pairs=[(0, 0), (1, 0), (2, 'backbone.group1')])
    head = MODELS.build(distiller_config(at_heads=[head])).at_heads[0]
    assert [len(list(projection.parameters())) for projection in head.projections] == [1, 0, 0]
    same = MODELS.build(distiller_config(at_heads=[FACTT], teacher=build_network(network_config())))
    assert not list(same.at_heads.parameters()) and not same.at_heads.state_dict()


def test_projections_are_initialised_by_init_cfg(distiller_config):
    torch.manual_seed(0)
    distiller = MODELS.build(distiller_config(at_heads=[FACTT]))
    distiller.init_weights()
    for projection, (width, teacher_width) in zip(distiller.at_heads[0].projections, WIDTHS):
        # A standard deviation of 1 / sqrt(width), from 512 values or more.
        assert projection.weight.std().item() == pytest.approx(width**-0.5, rel=0.15)
        assert abs(projection.weight.mean().item()) < 5 * (width * width * teacher_width)**-0.5


# Loss

@pytest.mark.parametrize('beta', [1., 6.])
@pytest.mark.parametrize('width, teacher_width', [(5, 5), (5, 8), (8, 5)])
def test_loss_and_gradients_match_the_formula(width, teacher_width, beta):
    student, teacher = activation(width, 4, requires_grad=True), activation(teacher_width, 4, seed=1)
    head = ready_head(student, teacher, weight=beta)
    log = given(head, student, teacher)
    weight = head.projections[0].weight if width != teacher_width else None
    expected = plain_distance(student, teacher, weight)
    assert list(log) == ['loss_factt.a', 'factt.a']
    torch.testing.assert_close(log['factt.a'], expected.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(log['loss_factt.a'], beta / 2 * expected, rtol=1e-9, atol=0)
    assert not log['factt.a'].requires_grad
    wrt = [student] + ([] if weight is None else [weight])
    gradients = (torch.autograd.grad(value, wrt) for value in (log['loss_factt.a'], beta / 2 * expected))
    for mine, theirs in zip(*gradients):
        assert theirs.abs().max() > 1e-4
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


def test_golden_loss():
    # Squared distances of unit vectors: 2 at a right angle, 4 if opposite. Half of their mean is 1.5.
    student = torch.tensor([[3., 0.], [0., 5.]], dtype=torch.float64).view(2, 2, 1, 1)
    teacher = torch.tensor([[0., 7.], [0., -1.]], dtype=torch.float64).view(2, 2, 1, 1)
    assert given(ready_head(student, teacher, weight=1.), student, teacher)['loss_factt.a'].item() == pytest.approx(1.5)


@pytest.mark.parametrize('size, teacher_size', [(4, 2), (2, 4)])
def test_unequal_sizes(size, teacher_size):
    student, teacher = activation(5, size), activation(5, teacher_size, seed=1)
    pooled = [torch.stack([value[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)
              if value.shape[-1] == 4 else value for value in (student, teacher)]
    log = given(ready_head(student, teacher, weight=1.), student, teacher)
    torch.testing.assert_close(log['factt.a'], plain_distance(*pooled), rtol=1e-9, atol=0)
    with pytest.raises(UserError, match=rf'\({size}, {size}\).*\({teacher_size}, {teacher_size}\).*size_mismatch'):
        given(ready_head(student, teacher, weight=1., size_mismatch='error'), student, teacher)


def test_in_a_distiller_it_compares_the_layers_of_both_networks(distiller_config):
    distiller = MODELS.build(distiller_config(at_heads=[dict(FACTT, weight=6.)])).eval()
    result = losses(distiller)
    inputs = distiller.data_preprocessor(batch())['inputs']
    with torch.no_grad():
        values = [network.backbone.conv0(inputs) for network in (distiller.student, distiller.teacher.network)]
        for layer, projection in zip(LAYERS, distiller.at_heads[0].projections):
            values = [network.get_submodule(layer)(value)
                      for network, value in zip((distiller.student, distiller.teacher.network), values)]
            expected = plain_distance(*values, projection.weight).item()
            assert result[f'factt.{layer}'].item() == pytest.approx(expected, rel=1e-4)
            assert result[f'loss_factt.{layer}'].item() == pytest.approx(3 * expected, rel=1e-4)
    assert set(result) == {'loss_task', 'accuracy_top-1', *(f'{kind}factt.{layer}' for layer in LAYERS
                                                            for kind in ('loss_', ''))}


def test_gradients_reach_projections_and_student_and_not_the_teacher(distiller_config):
    distiller = MODELS.build(distiller_config(at_heads=[dict(FACTT, weight=1.)])).train()
    sum(value for key, value in losses(distiller).items() if key.startswith('loss_factt')).backward()
    for projection in distiller.at_heads[0].projections:
        assert projection.weight.grad.abs().sum() > 0
    # Parameters after the last layer get no gradient.
    for name in ('conv0', 'group0', 'group1', 'group2'):
        for parameter in getattr(distiller.student.backbone, name).parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0
    assert distiller.student.head.fc.weight.grad is None
    assert all(parameter.grad is None for parameter in distiller.teacher.network.parameters())


def test_with_weight_0_the_projections_have_a_gradient_of_zero(distiller_config):
    # DDP needs a gradient of every parameter.
    distiller = MODELS.build(distiller_config(at_heads=[dict(FACTT, weight=0.)])).train()
    sum(value for key, value in losses(distiller).items() if 'loss' in key).backward()
    for parameter in distiller.at_heads.parameters():
        assert parameter.grad is not None and not parameter.grad.any()


# Building has no side effects

def test_it_is_built_without_the_teachers_file(distiller_config, network_config, make_runner):
    teacher = dict(model=network_config(widen_factor=2), checkpoint='nowhere/epoch_1.pth')
    config = distiller_config(teacher=teacher, at_heads=[FACTT])
    distiller = MODELS.build(config)
    assert len(list(distiller.at_heads.parameters())) == 3 and not distiller.teacher.built
    assert len(distiller.eval().test_step(batch())) == 4
    runner = make_runner(config)
    with pytest.raises(MissingFileError, match='nowhere/epoch_1.pth.*model.teacher.checkpoint=PATH'):
        runner.train()
    assert runner.iter == 0


def test_the_teachers_weights_are_loaded_after_the_dummy_pass(distiller_config, teacher_file):
    distiller = MODELS.build(distiller_config(at_heads=[FACTT]))
    network = distiller.prepare_teacher().network
    for key, value in torch.load(teacher_file)['state_dict'].items():
        assert torch.equal(network.state_dict()[key], value), key


def test_the_head_does_not_advance_the_random_stream(distiller_config, network_config):
    ends, weights = [], []
    for build in (lambda: build_network(network_config()), lambda: MODELS.build(distiller_config(at_heads=[FACTT]))):
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        model = build()
        built = rng_states()
        model.init_weights()
        ends.append((built, rng_states()))
        weights.append(model.state_dict())
    assert ends[0] == ends[1]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


def test_the_projections_depend_on_the_seed_only(distiller_config):
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        distiller = MODELS.build(distiller_config(at_heads=[FACTT]))
        distiller.init_weights()
        drawn.append([parameter.detach().clone() for parameter in distiller.at_heads.parameters()])
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not any(map(torch.equal, drawn[0], drawn[2]))


@pytest.mark.parametrize('training', [False, True])
def test_both_networks_are_unchanged(training, distiller_config, network_config):
    networks = build_network(network_config()), build_network(network_config(widen_factor=2))
    before = []
    for network in networks:
        # One part in another mode, as in fine-tuning with frozen BN.
        network.train(training).backbone.group1.train(not training)
        before.append((copy.deepcopy(network.state_dict()),
                       {name: module.training for name, module in network.named_modules()},
                       {name: parameter.requires_grad for name, parameter in network.named_parameters()}))
    MODELS.build(distiller_config(student=networks[0], teacher=networks[1], at_heads=[FACTT]))
    for network, (state, modes, trainable) in zip(networks, before):
        assert {name: module.training for name, module in network.named_modules()} == modes
        assert {name: parameter.requires_grad for name, parameter in network.named_parameters()} == trainable
        assert not any(parameter.grad is not None for parameter in network.parameters())
        assert not any(module._forward_hooks for module in network.modules())
        for key, value in network.state_dict().items():
            # BN's running statistics and its count of batches among them.
            assert torch.equal(value, state[key]), key


# Refused at build

@pytest.mark.parametrize('pair, message', [
    (('head', 0), r"factt: .*student layer 'head'.*\(N, C, H, W\).*\(1, 10\)"),
    ((0, 'head'), r"factt: .*teacher layer 'head'.*\(N, C, H, W\).*\(1, 10\)"),
    (('neck', 'neck'), r"student layer 'neck'.*\(1, 64\)"),
    # Of the teacher too, which is built without its checkpoint.
    ((0, 'backbone.gruop0'), "'backbone.gruop0'.*teacher.*'backbone.group0'"),
    (('backbone.gruop0', 0), "'backbone.gruop0'.*student.*'backbone.group0'"),
    ((0, 3), 'teacher.*stage 3.*0 to 2'),
])
def test_layers_it_cannot_compare_are_refused(pair, message, distiller_config, network_config):
    teacher = dict(model=network_config(widen_factor=2), checkpoint='nowhere.pth')
    with pytest.raises(LayerError, match=message):
        MODELS.build(distiller_config(teacher=teacher, at_heads=[dict(FACTT, pairs=[(1, 1), pair])]))


@pytest.mark.parametrize('options, kind, message', [
    (dict(pairs=[]), ConfigError, r'pairs.*got \[\]'),
    (dict(weight=-1), ConfigError, 'weight.*got -1'),
    (dict(weight=dict(type='linear')), ConfigError, "'initial'.*'type': 'linear'"),
    (dict(size_mismatch='resize'), UserError, "size_mismatch.*'pool', 'error'.*got 'resize'"),
    (dict(name='factt_loss'), ConfigError, "'loss'.*got 'factt_loss'"),
])
def test_bad_options_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        FullActivationHead(**{'pairs': [(0, 0)], **options})


def test_without_a_teacher_it_is_refused(distiller_config):
    with pytest.raises(ConfigError, match="'factt'.*teacher=dict"):
        MODELS.build(distiller_config(teacher=None, at_heads=[FACTT]))


# In a run

def test_projections_are_trained_and_saved_beside_the_student(distiller_config, network_config, make_runner):
    runner = make_runner(distiller_config(at_heads=[FACTT]))
    begun = []

    class AtStart(Hook):

        def before_train(self, runner):
            begun.extend(parameter.detach().clone() for parameter in runner.model.at_heads.parameters())

    runner.register_hook(AtStart())
    runner.train()
    projections = list(runner.model.at_heads.parameters())
    optimized = [id(p) for group in runner.optim_wrapper.param_groups for p in group['params']]
    assert sorted(optimized) == sorted(map(id, [*runner.model.student.parameters(), *projections]))
    assert len(begun) == 3 and not any(map(torch.equal, begun, projections))
    student = build_network(network_config())
    assert list(runner.model.state_dict()) == list(student.state_dict())
    checkpoint = checkpoint_of(runner)
    assert list(checkpoint['state_dict']) == list(student.state_dict())
    assert list(checkpoint['at_heads']) == [f'0.projections.{index}.weight' for index in range(3)]
    assert all(map(torch.equal, checkpoint['at_heads'].values(), projections))
    assert not any(map(torch.equal, checkpoint_of(runner, 'epoch_1.pth')['at_heads'].values(), projections))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_resumed_run_is_bit_identical(by_epoch, distiller_config, make_runner):
    weight = dict(type='linear', initial=1., by_epoch=by_epoch)
    config = distiller_config(at_heads=[dict(FACTT, weight=weight)])
    straight = make_runner(config)
    straight.train()
    resumed = make_runner(config, 'resumed', resume=True, load_from=f'{straight.work_dir}/epoch_1.pth')
    restored = []

    class AtStart(Hook):

        def before_train(self, runner):
            restored.extend(parameter.detach().clone() for parameter in runner.model.at_heads.parameters())

    resumed.register_hook(AtStart())
    resumed.train()
    assert all(map(torch.equal, restored, checkpoint_of(straight, 'epoch_1.pth')['at_heads'].values()))
    assert len(restored) == 3 and resumed.iter == straight.iter == 4
    first, second = checkpoint_of(straight), checkpoint_of(resumed)
    for part in ('state_dict', 'at_heads'):
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), key
    states = [checkpoint['optimizer']['state'] for checkpoint in (first, second)]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert torch.equal(state['momentum_buffer'], states[1][key]['momentum_buffer']), key


def test_by_default_the_weight_decays_to_0_over_the_run(distiller_config, make_runner):
    runner = make_runner(distiller_config(at_heads=[FACTT]), epochs=4)
    logged = []
    train_step = runner.model.train_step
    runner.model.train_step = lambda *args, **kwargs: logged.append(train_step(*args, **kwargs)) or logged[-1]
    runner.train()
    # From 10 in eight steps.
    weights = [10, 8.75, 7.5, 6.25, 5, 3.75, 2.5, 1.25]
    assert [log['factt.weight'].item() for log in logged] == weights
    for log, weight in zip(logged, weights):
        for layer in LAYERS:
            assert log[f'loss_factt.{layer}'].item() == pytest.approx(
                weight / 2 * log[f'factt.{layer}'].item(), rel=1e-6)
        parts = [value.item() for key, value in log.items() if 'loss' in key and key != 'loss']
        assert len(parts) == 4 and log['loss'].item() == pytest.approx(sum(parts), rel=1e-6)
    scalars = runner.message_hub.get_scalar('train/factt.weight')
    assert scalars.data[0].tolist() == weights


def test_training_lowers_its_loss(distiller_config, make_runner):
    config = distiller_config(at_heads=[dict(FACTT, weight=2.)])
    runner = make_runner(config, epochs=6, param_scheduler=None)
    logged = []
    train_step = runner.model.train_step
    runner.model.train_step = lambda *args, **kwargs: logged.append(train_step(*args, **kwargs)) or logged[-1]
    runner.train()
    first, last = (sum(log[f'factt.{layer}'].item() for layer in LAYERS) for log in (logged[0], logged[-1]))
    # Without correlation the loss is 2 for each layer.
    assert first == pytest.approx(6, abs=1.5) and last < 0.8 * first


def test_with_weight_0_the_student_is_bit_identical_to_the_baseline(distiller_config, network_config, make_runner):
    states = []
    for model in (network_config(), distiller_config(at_heads=[dict(FACTT, weight=0)])):
        runner = make_runner(model, model['type'])
        runner.train()
        states.append(checkpoint_of(runner)['state_dict'])
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
