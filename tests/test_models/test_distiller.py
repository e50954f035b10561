import copy
import gc
import math
import weakref

import pytest
import torch
import torch.nn as nn
from mmengine.model import ExponentialMovingAverage
from mmpretrain.models import ImageClassifier

from mmat.datasets import BatchedSamples
from mmat.errors import CheckpointError, ConfigError, LayerError, MissingFileError
from mmat.models import ActivationATHead, BaseATHead, build_network
from mmat.registry import MODELS
from mmat.utils.checkpoint import load_weights


@pytest.fixture(scope='module', autouse=True)
def learned_head():
    """Register a head with parameters, as a user would."""

    @MODELS.register_module(name='LearnedHead')
    class LearnedHead(BaseATHead):

        def __init__(self, pairs, weight, channels=(64, 128), **kwargs):
            super().__init__(pairs, weight, init_cfg=dict(type='Kaiming', layer='Conv2d'), **kwargs)
            self.project = nn.Conv2d(*channels, 1, bias=False)

        def loss(self, student, teacher):
            return {label: (self.project(student.features[s]) - teacher.features[t]).square().mean()
                    for label, s, t in zip(self.labels, self.student_layers, self.teacher_layers)}

    yield
    MODELS.module_dict.pop('LearnedHead')


LEARNED = dict(type='mmat.LearnedHead', pairs=[(2, 2)], weight=0.1)


def batch(count=4):
    generator = torch.Generator().manual_seed(0)
    return dict(inputs=torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8),
                data_samples=BatchedSamples(torch.randint(0, 10, (count, ), generator=generator)))


def losses(distiller, training=False):
    data = distiller.data_preprocessor(batch(), training)
    return distiller(**data, mode='loss')


def equal_bits(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def checkpoint_of(runner, name='epoch_2.pth'):
    return torch.load(f'{runner.work_dir}/{name}', weights_only=True)


# The distiller behaves as its student

def test_state_dict_is_the_students_key_for_key(distiller_config, network_config):
    distiller = MODELS.build(distiller_config(at_heads=[LEARNED]))
    distiller.prepare_teacher()
    assert list(distiller.state_dict()) == list(build_network(network_config()).state_dict())
    assert list(nn.ModuleDict(dict(a=distiller)).state_dict()) == [f'a.{key}' for key in distiller.state_dict()]


def test_a_students_state_dict_loads_strictly_and_does_not_change_the_heads(distiller_config, network_config):
    distiller = MODELS.build(distiller_config(at_heads=[LEARNED]))
    head = distiller.at_heads[0].project.weight.clone()
    student = build_network(network_config())
    student.init_weights()
    assert not any(distiller.load_state_dict(student.state_dict(), strict=True))
    equal_bits(distiller.student.state_dict(), student.state_dict())
    assert torch.equal(distiller.at_heads[0].project.weight, head)


@pytest.mark.parametrize('change, message', [
    (lambda state: state.pop('head.fc.weight'), 'Missing key.*head.fc.weight'),
    (lambda state: state.update(teacher=torch.ones(1)), 'Unexpected key.*teacher'),
    (lambda state: state.update({'student.head.fc.weight': torch.ones(1)}), 'Unexpected key'),
])
def test_another_state_dict_does_not_load_strictly(change, message, distiller_config, network_config):
    state = build_network(network_config()).state_dict()
    change(state)
    with pytest.raises(RuntimeError, match=f'(?s){message}'):
        MODELS.build(distiller_config()).load_state_dict(state)


def test_prediction_and_features_are_the_students(distiller_config):
    distiller = MODELS.build(distiller_config()).eval()
    data = distiller.data_preprocessor(batch())
    student = distiller.student
    torch.testing.assert_close(distiller(data['inputs']), student(data['inputs']), rtol=0, atol=0)
    for mine, theirs in zip(distiller.val_step(batch()), student.val_step(batch())):
        assert torch.equal(mine.pred_score, theirs.pred_score)
    assert torch.equal(distiller.extract_feat(data['inputs'])[0], student.extract_feat(data['inputs'])[0])


def test_without_a_teacher_file_it_builds_and_predicts(distiller_config, network_config):
    teacher = dict(model=network_config(2), checkpoint='nowhere/epoch_1.pth')
    distiller = MODELS.build(distiller_config(teacher=teacher)).eval()
    assert len(distiller.test_step(batch())) == 4


@pytest.mark.parametrize('preprocessors, mean', [((3., None), 3.), ((None, 5.), 5.), ((3., 5.), 3.)])
def test_the_students_preprocessor_is_preferred(preprocessors, mean, distiller_config, network_config):
    student = network_config(mean=preprocessors[0] or 0)
    if preprocessors[0] is None:
        del student['data_preprocessor']
    own = preprocessors[1] and dict(type='mmat.BatchPreprocessor', mean=[preprocessors[1]] * 3, std=[1.] * 3)
    distiller = MODELS.build(distiller_config(student=student, data_preprocessor=own))
    assert distiller.data_preprocessor is distiller.student.data_preprocessor
    assert distiller.data_preprocessor.mean.flatten().tolist() == [mean] * 3


# Losses

@pytest.mark.parametrize('layer', [1, 'backbone.group1'])
def test_losses_are_the_students_and_the_heads(layer, distiller_config):
    distiller = MODELS.build(distiller_config(head=dict(pairs=[(layer, layer)], weight=7.))).eval()
    result = losses(distiller)
    data = distiller.data_preprocessor(batch())
    maps = []
    for network in (distiller.student, distiller.teacher.network):
        backbone, x = network.backbone, data['inputs']
        x = backbone.group1(backbone.group0(backbone.conv0(x)))
        q = x.pow(2).mean(1).flatten(1)
        maps.append(q / q.norm(dim=1, keepdim=True))
    scores = distiller.student(data['inputs'])
    expected = {
        'loss_task': nn.functional.cross_entropy(scores, data['data_samples'].gt_label),
        'loss_at.backbone.group1': 7 * (maps[0] - maps[1]).pow(2).mean(),
        'at.backbone.group1': (maps[0] - maps[1]).pow(2).mean(),
        'accuracy_top-1': (scores.argmax(1) == data['data_samples'].gt_label).float().mean() * 100,
    }
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        # mmpretrain gives its accuracies as lists.
        assert float(torch.as_tensor(result[name]).detach()) == pytest.approx(
            value.item(), rel=1e-5, abs=1e-7), name


def test_the_total_is_the_sum_of_the_logged_losses(distiller_config, make_runner):
    runner = make_runner(distiller_config(at_heads=[
        dict(type='mmat.ActivationATHead', pairs=[(0, 0), (2, 2)], weight=50.), LEARNED]), epochs=1)
    logged = []
    train_step = runner.model.train_step
    runner.model.train_step = lambda *args, **kwargs: logged.append(train_step(*args, **kwargs)) or logged[-1]
    runner.train()
    parts = ['loss_task', 'loss_at.backbone.group0', 'loss_at.backbone.group2', 'loss_at_2.backbone.group2']
    assert len(logged) == 2
    for log in logged:
        assert [key for key in log if 'loss' in key and key != 'loss'] == parts
        assert log['loss'].item() == pytest.approx(sum(log[part].item() for part in parts), rel=1e-6)
        assert log['loss_at.backbone.group0'].item() == pytest.approx(50 * log['at.backbone.group0'].item(), rel=1e-6)


def test_a_named_loss_keeps_its_name(distiller_config):

    class Student(ImageClassifier):

        def loss(self, inputs, data_samples):
            value = super().loss(inputs, data_samples)['loss']
            return dict(loss_ce=value, loss_other=2 * value)

    distiller = MODELS.build(distiller_config())
    distiller.student.__class__ = Student
    result = losses(distiller)
    assert 'loss' not in result and 'loss_task' not in result
    assert result['loss_other'] == 2 * result['loss_ce']


def test_heads_of_one_class_are_numbered(distiller_config):
    heads = [dict(type='mmat.ActivationATHead', pairs=[(0, 0)], name=name) for name in ('at', 'at', 'mine', 'at')]
    result = losses(MODELS.build(distiller_config(at_heads=heads)))
    assert {key for key in result if key.startswith('loss_') and key != 'loss_task'} == {
        f'loss_{name}.backbone.group0' for name in ('at', 'at_2', 'mine', 'at_3')}


def test_numbering_skips_names_that_are_taken(distiller_config):
    heads = [dict(type='mmat.ActivationATHead', pairs=[(0, 0)], name=name) for name in ('at', 'at_2', 'at')]
    distiller = MODELS.build(distiller_config(at_heads=heads))
    assert len({head.name for head in distiller.at_heads}) == 3


def test_only_the_student_gets_gradients(distiller_config):
    distiller = MODELS.build(distiller_config()).train()
    sum(value for key, value in losses(distiller).items() if 'loss' in key).backward()
    assert all(parameter.grad is None for parameter in distiller.teacher.network.parameters())
    assert all(parameter.grad is not None for parameter in distiller.student.parameters())


# Refused at build

@pytest.mark.parametrize('change, kind, message', [
    (dict(at_heads=[]), ConfigError, r'at_heads.*got \[\]'),
    (dict(at_heads=dict(type='mmat.ActivationATHead', pairs=[(0, 0)])), ConfigError, "at_heads.*got {'type'"),
    (dict(head=dict(pairs=[('backbone.gruop0', 0)])), LayerError, "'backbone.gruop0'.*student.*'backbone.group0'"),
    (dict(head=dict(pairs=[(3, 0)])), LayerError, 'student.*stage 3.*0 to 2'),
])
def test_refused_at_build(change, kind, message, distiller_config):
    with pytest.raises(kind, match=message):
        MODELS.build(distiller_config(**change))


def test_a_teachers_misspelt_layer_stops_training_before_its_first_step(distiller_config, make_runner):
    runner = make_runner(distiller_config(head=dict(pairs=[(0, 'backbone.gruop0')])))
    with pytest.raises(LayerError, match="'backbone.gruop0'.*teacher.*'backbone.group0'"):
        runner.train()
    assert runner.iter == 0


def test_a_missing_teacher_stops_training_before_its_first_step(distiller_config, make_runner, network_config):
    teacher = dict(model=network_config(2), checkpoint='absent.pth')
    runner = make_runner(distiller_config(teacher=teacher))
    before = copy.deepcopy(runner.model.state_dict())
    steps = []
    runner.model.train_step = lambda *args, **kwargs: steps.append(1)
    with pytest.raises(MissingFileError, match='absent.pth.*model.teacher.checkpoint=PATH'):
        runner.train()
    assert not steps and runner.iter == 0
    assert before.keys() == runner.model.state_dict().keys()


def test_a_layer_that_is_never_run_fails_at_the_first_step(distiller_config):

    class Unused(nn.Module):

        def __init__(self, network):
            super().__init__()
            self.backbone, self.data_preprocessor = network.backbone, network.data_preprocessor
            self.spare = nn.Identity()

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return dict(loss=self.backbone(inputs)[0].mean())

    student = Unused(build_network(distiller_config()['student']))
    distiller = MODELS.build(distiller_config(student=student, head=dict(pairs=[('spare', 0)])))
    with pytest.raises(LayerError, match="'spare'.*student"):
        distiller(torch.ones(2, 3, 8, 8), None, mode='loss')
    assert not any(module._forward_hooks for module in student.modules())


# Memory

@pytest.mark.parametrize('weight', [0., 100.])
def test_no_activation_outlives_its_step(weight, distiller_config, make_runner):
    runner = make_runner(distiller_config(head=dict(weight=weight)), epochs=1)
    alive, seen = [], []
    model = runner.model

    def remember(module, args, output):
        seen.append(weakref.ref(output))

    for network in (model.student, model.prepare_teacher().network):
        for name in ('group0', 'group1', 'group2'):
            getattr(network.backbone, name).register_forward_hook(remember)
    train_step = model.train_step

    def counted(*args, **kwargs):
        gc.collect()
        # The summary before the first step ran both networks; its activations are freed too.
        assert not any(reference() is not None for reference in seen)
        seen.clear()
        log = train_step(*args, **kwargs)
        gc.collect()
        alive.append((len(seen), sum(reference() is not None for reference in seen)))
        return log

    model.train_step = counted
    runner.train()
    assert alive == [(6, 0), (6, 0)]


def test_no_hook_stays_on_a_network(distiller_config):
    distiller = MODELS.build(distiller_config())
    losses(distiller)
    for network in (distiller.student, distiller.teacher.network):
        assert not any(module._forward_hooks for module in network.modules())


# Training

@pytest.mark.parametrize('heads', [
    [dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=0)],
    # A head with random initial weights.
    [{**LEARNED, 'weight': 0}],
], ids=['activation', 'learned'])
@pytest.mark.parametrize('validate', [False, True])
def test_weight_0_is_bit_identical_to_the_baseline(heads, validate, distiller_config, network_config, make_runner):
    hooks = {'default_hooks.distillation.validate_teacher': True}
    checkpoints = []
    for model in (network_config(), distiller_config(at_heads=heads)):
        runner = make_runner(model, model['type'], validate=validate, **hooks)
        runner.train()
        checkpoints.append(checkpoint_of(runner))
    first, second = checkpoints
    equal_bits(first['state_dict'], second['state_dict'])
    assert any('num_batches_tracked' in key and value == 4 for key, value in first['state_dict'].items())
    # The student's parameters come first, then those of the heads.
    count = len(list(build_network(network_config()).parameters()))
    momenta = [[checkpoint['optimizer']['state'][index]['momentum_buffer'] for index in range(count)]
               for checkpoint in (first, second)]
    assert all(torch.equal(*pair) for pair in zip(*momenta))


def test_a_small_weight_changes_the_result(distiller_config, network_config, make_runner):
    weights = [make_runner(model, model['type'], epochs=1).train().state_dict()['backbone.conv0.weight']
               for model in (network_config(), distiller_config(head=dict(weight=1e-3)))]
    assert not torch.equal(*weights)
    # The results are close, as they are not of another seed.
    torch.testing.assert_close(*weights, rtol=0, atol=1e-2)


def test_the_checkpoint_is_the_students(distiller_config, network_config, make_runner, teacher_file):
    runner = make_runner(distiller_config(at_heads=[LEARNED]))
    runner.train()
    checkpoint = checkpoint_of(runner)
    student = build_network(network_config())
    assert not any(student.load_state_dict(checkpoint['state_dict'], strict=True))
    load_weights(student, runner.work_dir)
    equal_bits(student.state_dict(), runner.model.student.state_dict())

    def tensors(value):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors(item)

    teacher = [t for t in torch.load(teacher_file)['state_dict'].values() if t.dim() > 1]
    assert len(list(tensors(checkpoint))) > len(checkpoint['state_dict'])
    for tensor in tensors(checkpoint):
        assert not any(tensor.shape == weight.shape and torch.equal(tensor, weight) for weight in teacher)


def test_parameters_of_heads_are_trained_and_resumed_but_not_in_the_state_dict(distiller_config, make_runner):
    config = distiller_config(at_heads=[LEARNED])
    runner = make_runner(config)
    initial = runner.model.at_heads[0].project.weight.clone()
    runner.train()
    weight = runner.model.at_heads[0].project.weight
    optimized = {id(p) for group in runner.optim_wrapper.param_groups for p in group['params']}
    assert id(weight) in optimized
    assert optimized == {id(p) for p in [*runner.model.student.parameters(), weight]}
    assert not torch.equal(weight, initial)
    checkpoint = checkpoint_of(runner)
    assert not any(value.shape == weight.shape for value in checkpoint['state_dict'].values())

    resumed = make_runner(config, resume=True, load_from=f'{runner.work_dir}/epoch_1.pth')
    resumed.train()
    assert resumed.iter == runner.iter == 4
    assert torch.equal(resumed.model.at_heads[0].project.weight, weight)
    equal_bits(resumed.model.state_dict(), runner.model.state_dict())
    head = checkpoint['at_heads']
    assert list(head) == ['0.project.weight'] and torch.equal(head['0.project.weight'], weight)


def test_heads_of_another_config_are_not_resumed(distiller_config, make_runner):
    make_runner(distiller_config(at_heads=[LEARNED]), epochs=1).train()
    with pytest.raises(CheckpointError, match='0.project.weight') as error:
        make_runner(distiller_config(), resume=True).train()
    assert '\n' not in str(error.value)


# EMA

EMA = {'custom_hooks': [dict(type='EMAHook', momentum=0.25)]}


@pytest.mark.parametrize('options', [dict(), dict(update_buffers=True)])
def test_ema_averages_the_student_and_shares_the_teacher(options, distiller_config):
    distiller = MODELS.build(distiller_config(at_heads=[LEARNED]))
    teacher = distiller.prepare_teacher().network
    before = copy.deepcopy(teacher.state_dict())
    ema = ExponentialMovingAverage(distiller, momentum=0.25, **options)
    assert ema.module.teacher is distiller.teacher
    ema.update_parameters(distiller)
    start = distiller.student.head.fc.weight.detach().clone()
    with torch.no_grad():
        distiller.student.head.fc.weight += 1
    ema.update_parameters(distiller)
    torch.testing.assert_close(ema.module.student.head.fc.weight, start + 0.25, rtol=1e-6, atol=1e-6)
    equal_bits(teacher.state_dict(), before)
    assert [key for key in ema.state_dict() if key != 'steps'] == [f'module.{key}' for key in distiller.state_dict()]


def test_an_ema_checkpoint_is_the_averaged_student(distiller_config, network_config, make_runner, teacher_file):
    runner = make_runner(distiller_config(at_heads=[LEARNED]), validate=True, **EMA)
    runner.train()
    checkpoint = checkpoint_of(runner)
    student = build_network(network_config())
    assert not any(student.load_state_dict(checkpoint['state_dict'], strict=True))
    ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook').ema_model
    assert ema.steps == 4
    assert ema.module.teacher is runner.model.teacher
    equal_bits(student.state_dict(), ema.module.student.state_dict())
    assert not torch.equal(student.head.fc.weight, runner.model.student.head.fc.weight)
    equal_bits(runner.model.teacher.network.state_dict(), torch.load(teacher_file)['state_dict'])
    # The student without averaging is saved beside it, for resuming.
    torch.testing.assert_close(checkpoint['ema_state_dict']['module.head.fc.weight'],
                               runner.model.student.head.fc.weight.detach(), rtol=0, atol=0)


def test_an_ema_run_resumes_bit_identically(distiller_config, make_runner):
    config = distiller_config(at_heads=[LEARNED])
    runner = make_runner(config, validate=True, **EMA)
    runner.train()
    straight = checkpoint_of(runner)
    resumed = make_runner(config, validate=True, resume=True,
                          load_from=f'{runner.work_dir}/epoch_1.pth', **EMA)
    resumed.train()
    checkpoint = checkpoint_of(resumed)
    for part in ('state_dict', 'ema_state_dict', 'at_heads'):
        equal_bits(checkpoint[part], straight[part])


# Other students and teachers

def test_a_student_of_another_kind(distiller_config):
    """A plain module without a classification head, with another loss."""

    class Autoencoder(nn.Module):

        def __init__(self):
            super().__init__()
            self.data_preprocessor = nn.Identity()
            self.down, self.up = nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 3, 2, 2)

        def init_weights(self):
            pass

        def forward(self, inputs, data_samples=None, mode='tensor'):
            out = self.up(self.down(inputs))
            return dict(loss=(out - inputs).square().mean()) if mode == 'loss' else out

    student = Autoencoder()
    distiller = MODELS.build(distiller_config(student=student, head=dict(pairs=[('down', 1)])))
    result = distiller(torch.rand(2, 3, 8, 8), None, mode='loss')
    assert set(result) == {'loss_task', 'loss_at.down', 'at.down'}
    assert math.isfinite(sum(value.item() for value in result.values()))
    assert list(distiller.state_dict()) == list(student.state_dict())


def test_heads_and_networks_as_objects(network_config):
    student, teacher = build_network(network_config()), build_network(network_config(2))
    head = ActivationATHead([(0, 0)])
    distiller = MODELS.build(dict(type='mmat.Distiller', student=student, teacher=teacher, at_heads=[head]))
    assert distiller.student is student and distiller.at_heads[0] is head
    assert 'loss_at.backbone.group0' in losses(distiller)
