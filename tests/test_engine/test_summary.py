"""The summary in the log of a distillation run, and its warnings."""
import copy

import pytest
import torch
from mmengine.hooks import Hook

from mmat.engine import DistillationHook
from mmat.engine.hooks import distillation_hook as module
from mmat.models import WideResNet, build_network
from mmat.registry import MODELS

AT = dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=100.)
KD = dict(type='mmat.SoftTargetHead')
NORM = dict(type='mmat.GradientNormHead', weight=0.5)
VALIDATE = {'default_hooks.distillation.validate_teacher': True}
BY_ITERATION = {
    'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=3, val_interval=3),
    'train_dataloader.sampler.type': 'InfiniteSampler',
    'param_scheduler.by_epoch': False,
    'default_hooks.checkpoint.by_epoch': False,
}


@pytest.fixture(scope='module', autouse=True)
def auxiliary_wrn():
    """Register a backbone with a layer that runs in training only."""

    @MODELS.register_module(name='AuxiliaryWRN')
    class AuxiliaryWRN(WideResNet):

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.auxiliary = torch.nn.Identity()

        def forward(self, x):
            outputs = super().forward(x)
            return (self.auxiliary(outputs[-1]), ) if self.training else outputs

    yield
    MODELS.module_dict.pop('AuxiliaryWRN')


@pytest.fixture
def summaries(monkeypatch):
    """Record the return value of each call of ``summarize_run``, and the iteration of the call."""
    calls = []
    summarize_run = module.summarize_run

    def recorded(runner, *args):
        calls.append((runner.iter, *summarize_run(runner, *args)))
        return calls[-1][1:]

    monkeypatch.setattr(module, 'summarize_run', recorded)
    return calls


def train(runner, summaries):
    """Train a run and return its summary and warnings, which must be in its log once, before the first step."""
    first_step = []

    class AtFirstStep(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            first_step.append(len(runner.log))

    runner.register_hook(AtFirstStep(), priority='VERY_HIGH')
    summaries.clear()
    runner.train()
    (iteration, lines, warnings), = summaries
    assert iteration == 0
    before = runner.log[:first_step[0]]
    for level, messages in (('INFO', lines), ('WARNING', warnings)):
        assert [message for kind, message in before if kind == level and message in messages] == messages
        assert not [message for _, message in runner.log[first_step[0]:] if message in messages]
    assert len(lines) <= 8
    return lines, warnings


def parameters(config):
    return f'{sum(parameter.numel() for parameter in build_network(config).parameters()):,}'


def test_lines_of_a_run(distiller_config, make_runner, summaries, network_config, teacher_file):
    runner = make_runner(distiller_config(), validate=True, **VALIDATE)
    (student, teacher, data, setting, *pairs), warnings = train(runner, summaries)
    assert not warnings
    assert 'WideResNet' in student and parameters(network_config()) in student
    assert 'WideResNet' in teacher and parameters(network_config(widen_factor=2)) in teacher
    # Accuracy by hand on the same 50 test images.
    network = build_network(network_config(widen_factor=2)).eval()
    network.load_state_dict(torch.load(teacher_file)['state_dict'])
    dataset = runner.val_dataloader.dataset
    with torch.no_grad():
        predicted = network((dataset.images.float() - 77.7) / 81.1).argmax(1)
    accuracy = 100 * (predicted == dataset.labels).float().mean().item()
    assert f'accuracy/top1 {accuracy:.2f}' in teacher
    for part in ('64 training', '8 x 8', 'batch 32', '50 validation'):
        assert part in data
    for part in ('2 epochs', 'SGD', 'lr 0.1', 'fp32', 'cpu'):
        assert part in setting
    assert len(pairs) == 3
    shapes = [((16, 8, 8), (32, 8, 8)), ((32, 4, 4), (64, 4, 4)), ((64, 2, 2), (128, 2, 2))]
    for index, (line, (own, theirs)) in enumerate(zip(pairs, shapes)):
        assert line.startswith('at, weight 100')
        path = f'backbone.group{index}'
        assert line.index(f'{path} {own}') < line.index(f'{path} {theirs}')


def test_lines_follow_the_settings(distiller_config, make_runner, summaries):
    weight = dict(type='linear', initial=80., final=20., by_epoch=False)
    runner = make_runner(
        distiller_config(at_heads=[dict(AT, pairs=[(0, 0)], weight=weight), KD]),
        optim_wrapper=dict(type='mmat.AutocastOptimWrapper', optimizer=dict(_delete_=True, type='Adam', lr=2e-3)),
        train_dataloader=dict(batch_size=16), **BY_ITERATION)
    (_, teacher, data, setting, at, kd), warnings = train(runner, summaries)
    assert not warnings
    assert 'accuracy' not in teacher
    assert 'batch 16' in data and 'validation' not in data
    for part in ('3 iterations', 'Adam', 'lr 0.002', 'bf16'):
        assert part in setting
    assert at.startswith('at, weight 80') and 'linear' in at and 'backbone.group0 (16, 8, 8)' in at
    assert kd == 'kd, weight 0.9'


def test_a_run_without_a_teacher(make_runner, summaries, network_config):
    config = dict(type='mmat.Distiller', student=network_config(), at_heads=[NORM])
    (student, teacher, _, _, head), warnings = train(make_runner(config, epochs=1), summaries)
    assert parameters(network_config()) in student and not warnings
    assert 'none' in teacher and not any(character.isdigit() for character in teacher)
    assert head == 'minl2, weight 0.5'


def test_a_run_without_heads_has_no_summary(make_runner, summaries, network_config):
    make_runner(network_config(), epochs=1).train()
    assert not summaries


ALL_PAIRS = [(student, teacher) for student in range(3) for teacher in range(3)]


@pytest.mark.parametrize('heads, lines', [
    # A line for each pair, or for each head, or for three heads and the number of the others.
    ([AT, KD], ['at', 'at', 'at', 'kd']),
    ([AT, KD, NORM], ['at', 'kd', 'minl2']),
    ([dict(AT, pairs=ALL_PAIRS)], ['at']),
    ([AT] * 4, ['at', 'at_2', 'at_3', 'at_4']),
    ([AT] * 5, ['at', 'at_2', 'at_3', ' 2 ']),
    ([KD, *[NORM] * 8, dict(AT, pairs=ALL_PAIRS)], ['kd', 'minl2', 'minl2_2', ' 7 ']),
])
def test_a_summary_has_at_most_8_lines(heads, lines, distiller_config, make_runner, summaries):
    runner = make_runner(distiller_config(at_heads=copy.deepcopy(heads)), epochs=1)
    summary, _ = train(runner, summaries)
    described = summary[4:]
    assert len(described) == len(lines) and len(summary) <= 8
    for line, part in zip(described, lines):
        assert part in line if part.startswith(' ') else line.startswith(f'{part}, weight ')


def test_joined_pairs_are_complete(distiller_config, make_runner, summaries):
    runner = make_runner(distiller_config(at_heads=[dict(AT, pairs=ALL_PAIRS)]), epochs=1)
    (*_, line), warnings = train(runner, summaries)
    sizes = (8, 4, 2)
    for student, teacher in ALL_PAIRS:
        parts = [f'backbone.group{group} {(width * 2**group, sizes[group], sizes[group])}'
                 for group, width in ((student, 16), (teacher, 32))]
        assert ' <- '.join(parts) in line
    # Only pairs of one stage have equal sizes.
    assert len(warnings) == 6 and len(set(warnings)) == 6


def test_a_timm_student_whose_stages_do_not_correspond_is_a_warning(distiller_config, make_runner, summaries):
    student = dict(
        type='mmpretrain.TimmClassifier', model_name='test_resnet', num_classes=10,
        loss=dict(type='mmpretrain.CrossEntropyLoss'),
        data_preprocessor=dict(type='mmat.BatchPreprocessor', mean=[77.7] * 3, std=[81.1] * 3))
    widths = [info['num_chs'] for info in build_network(student).model.feature_info][1:]
    # Its first stage has a stride of 4, the stages of the teacher have 1, 2 and 4.
    heads = [dict(AT, pairs=[(0, 0), (0, 2)]), dict(AT, pairs=[(1, 1)], name='other')]
    runner = make_runner(distiller_config(student=student, at_heads=heads), epochs=1)
    (first, *_), warnings = train(runner, summaries)
    assert 'ResNet, ' in first and parameters(student) in first
    assert len(warnings) == 2
    for warning, name, own, theirs in (
            (warnings[0], 'at', f'model.layer1 ({widths[0]}, 2, 2)', 'backbone.group0 (32, 8, 8)'),
            (warnings[1], 'other', f'model.layer2 ({widths[1]}, 1, 1)', 'backbone.group1 (64, 4, 4)')):
        assert warning.startswith(f'{name}: ') and warning.index(own) < warning.index(theirs)
    assert runner.iter == 2


def test_a_layer_that_runs_in_training_only_is_no_error(distiller_config, make_runner, summaries, network_config):
    student = network_config()
    student['backbone']['type'] = 'mmat.AuxiliaryWRN'
    head = dict(AT, pairs=[('backbone.auxiliary', 2)])
    runner = make_runner(distiller_config(student=student, at_heads=[head]), epochs=1)
    lines, (warning, ) = train(runner, summaries)
    assert lines == [] and "'backbone.auxiliary'" in warning and 'student' in warning
    assert runner.iter == 2 and runner.message_hub.get_scalar('train/loss_at.backbone.auxiliary').current() > 0


def test_a_batch_in_another_format_has_no_summary(distiller_config, make_runner, summaries):
    runner = make_runner(distiller_config(), epochs=1)
    train(runner, summaries)
    summaries.clear()
    for batch in ([torch.zeros(2, 3, 8, 8), torch.zeros(2)], dict(images=torch.zeros(2, 3, 8, 8)), None):
        DistillationHook().before_train_iter(runner, 0, batch)
    assert not summaries


def test_a_resumed_run_is_summarized_again(distiller_config, make_runner, summaries):
    runner = make_runner(distiller_config(), epochs=1)
    lines, _ = train(runner, summaries)
    resumed = make_runner(distiller_config(), epochs=2, resume=True, load_from=f'{runner.work_dir}/epoch_1.pth')
    summaries.clear()
    resumed.train()
    (iteration, again, _), = summaries
    assert iteration == 2
    assert [a == b for a, b in zip(lines, again)] == [True, True, True, False, True, True, True]
    assert '1 epoch' in lines[3] and '2 epochs' in again[3]
