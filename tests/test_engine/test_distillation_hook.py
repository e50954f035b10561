import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS

from mmat.models import build_network

VALIDATE = {'default_hooks.distillation.validate_teacher': True}


@METRICS.register_module(force=True)
class FixedAccuracy(BaseMetric):
    """Returns a fixed accuracy."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return {'accuracy/top1': self.value, 'images': sum(results)}


def metric(value):
    return dict(_delete_=True, type='FixedAccuracy', value=value)


def about_teacher(runner, level='INFO'):
    return [message for kind, message in runner.log
            if kind == level and (message.startswith('Teacher ') or 'THE TEACHER' in message)]


def test_the_teachers_accuracy_is_logged_before_training(distiller_config, make_runner, teacher_file, network_config):
    runner = make_runner(distiller_config(), validate=True, **VALIDATE)
    at_first_step = []

    class AtFirstStep(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            at_first_step.append(len(about_teacher(runner)))

    runner.register_hook(AtFirstStep())
    runner.train()
    line, = about_teacher(runner)
    assert at_first_step == [1] * 4
    # By hand on the same 50 test images.
    teacher = build_network(network_config(widen_factor=2)).eval()
    teacher.load_state_dict(torch.load(teacher_file)['state_dict'])
    dataset = runner.val_dataloader.dataset
    with torch.no_grad():
        predicted = teacher((dataset.images.float() - 77.7) / 81.1).argmax(1)
    accuracy = 100 * (predicted == dataset.labels).float().mean().item()
    assert teacher_file in line and f'accuracy/top1 {accuracy:.2f}' in line


def test_the_teacher_is_validated_on_all_images_apart_from_the_student(distiller_config, make_runner):
    runner = make_runner(distiller_config(), epochs=1, validate=True, **VALIDATE, val_evaluator=metric(42.))
    results = []

    class Results(Hook):

        def after_val_epoch(self, runner, metrics=None):
            results.append(metrics)

    runner.register_hook(Results())
    runner.train()
    assert 'images 50.00' in about_teacher(runner)[0]
    assert results == [{'accuracy/top1': 42., 'images': 50}]


@pytest.mark.parametrize('accuracy, warns', [
    (0., True),
    (10., True),
    # Within a twentieth of the way from chance, 10 %, to 100 %: 14.5 %.
    (14., True),
    (15., False),
    (97., False),
])
def test_a_teacher_near_chance_is_a_warning(accuracy, warns, distiller_config, make_runner):
    runner = make_runner(distiller_config(), epochs=1, validate=True, **VALIDATE, val_evaluator=metric(accuracy))
    runner.train()
    warnings = about_teacher(runner, 'WARNING')
    assert len(warnings) == warns
    if warns:
        assert 'NEAR CHANCE' in warnings[0] and f'{accuracy:.2f} %' in warnings[0] and '10.00 %' in warnings[0]
        assert 'epoch_1.pth' in warnings[0]
    assert runner.iter == 2


def test_an_untrained_teacher_is_near_chance(distiller_config, make_runner):
    runner = make_runner(distiller_config(), epochs=1, validate=True, **VALIDATE)
    runner.train()
    assert len(about_teacher(runner, 'WARNING')) == 1


@pytest.mark.parametrize('settings, validate', [(VALIDATE, False), ({}, True)])
def test_without_validation_it_is_not_validated(settings, validate, distiller_config, make_runner):
    runner = make_runner(distiller_config(), epochs=1, validate=validate, **settings)
    runner.train()
    assert not about_teacher(runner)


def test_a_run_without_a_teacher_is_unchanged(network_config, make_runner):
    runner = make_runner(network_config(), epochs=1, validate=True, **VALIDATE)
    runner.train()
    assert not about_teacher(runner)
    assert 'at_heads' not in torch.load(f'{runner.work_dir}/epoch_1.pth')


def test_validating_the_teacher_does_not_change_the_training(distiller_config, make_runner):
    states = []
    for settings in ({}, VALIDATE):
        runner = make_runner(distiller_config(), f'run_{len(states)}', validate=True, **settings)
        runner.train()
        states.append(torch.load(f'{runner.work_dir}/epoch_2.pth'))
    first, second = states
    assert torch.equal(first['rng_states'][0]['torch'], second['rng_states'][0]['torch'])
    assert first['rng_states'][0]['python'] == second['rng_states'][0]['python']
    for key, value in first['state_dict'].items():
        assert torch.equal(value, second['state_dict'][key]), key


def test_the_teacher_is_validated_under_its_own_normalisation(distiller_config, make_runner, network_config):
    # The student's normalisation must not change the teacher's accuracy.
    lines = []
    for mean in (77.7, 200.):
        runner = make_runner(distiller_config(student=network_config(mean=mean)), f'mean_{mean:.0f}', epochs=1,
                             validate=True, **VALIDATE)
        runner.train()
        lines.append(about_teacher(runner)[0].split('(')[0])
    assert lines[0] == lines[1]


def test_compile_is_ignored_with_input_gradients(network_config, make_runner):
    """Compiled code cannot be differentiated twice. The backend 'eager' compiles nothing."""
    head = dict(type='mmat.GradientNormHead', weight=1.)
    runner = make_runner(dict(type='mmat.Distiller', student=network_config(), at_heads=[head]), epochs=1,
                         compile=dict(backend='eager'))
    before = runner.model.state_dict()['head.fc.weight'].clone()
    runner.train()
    assert 'train_step' not in vars(runner.model)
    assert len([text for level, text in runner.log if 'compile' in text and level == 'WARNING']) == 1
    assert not torch.equal(before, runner.model.state_dict()['head.fc.weight'])


def test_other_heads_stay_compiled(network_config, make_runner, distiller_config):
    runner = make_runner(distiller_config(), epochs=1, compile=dict(backend='eager', disable=True))
    runner.train()
    assert 'train_step' in vars(runner.model)
    assert not [text for level, text in runner.log if 'compile' in text and level == 'WARNING']
