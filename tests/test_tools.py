"""The command lines, as a user runs them."""
import contextlib
import functools
import io
import itertools
import json
import os
import pickle
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.utils._pytree import tree_flatten

from mmat.apis import launch
from mmat.datasets import Digits
from mmat.models import build_network
from mmat.utils.zoo import find_config, list_models

TOOLS = Path(__file__).parents[1] / 'tools'
DISTILLATION, = list_models('wrn16-1_at-wrn16-2_*_digits')
STUDENT, = list_models('wrn16-1_[0-9]*_digits')
TEACHER, = list_models('wrn16-2_[0-9]*_digits')
# Two steps and 60 test images an epoch.
SHORT = ['train_dataloader.batch_size=25', 'train_dataloader.dataset.train_size=50', 'train_cfg.val_interval=1',
         'val_dataloader.dataset.indices=60', 'test_dataloader.dataset.indices=60']


@pytest.fixture(scope='module')
def environment():
    """`python` is the one that runs the tests, as in an activated environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    return {**os.environ, 'PATH': path}


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp('teacher') / 'epoch_1.pth'
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_network(TEACHER).state_dict()), path)
    return str(path)


@pytest.fixture(scope='module')
def in_process():
    """Runs a tool here, where the imports are done, in a folder; gives its exit code and what it printed.

    A code that is a string is what Python prints to stderr before it exits with status 1.
    """
    context = pytest.MonkeyPatch()
    context.setattr(launch, 'keep_freed_memory', lambda: False)
    # Laying out the config of every checkpoint takes longer than the training.
    context.setattr('mmengine.config.config.FormatCode', lambda text, **kwargs: (text, True))
    names = itertools.count()

    def run(folder, name, *words):
        words = [str(word) for word in words]
        if name in ('train.py', 'test.py'):
            # mmengine's loggers and message hubs live by this name, and outlive their run.
            if '--cfg-options' not in words:
                words.append('--cfg-options')
            words.append(f'experiment_name=tool_{next(names)}')
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
            patch.chdir(folder)
            patch.setenv('LOCAL_RANK', '')
            patch.delenv('LOCAL_RANK')
            patch.setattr(sys, 'argv', [str(TOOLS / name), *words])
            with pytest.raises(SystemExit) as stop:
                runpy.run_path(str(TOOLS / name), run_name='__main__')
        return stop.value.code, output.getvalue()

    yield run
    context.undo()


@pytest.fixture
def tool(in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return functools.partial(in_process, tmp_path)


def scalars(work_dir):
    """The last JSON log, by line."""
    path = max(Path(work_dir).glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in path.read_text().splitlines()]


# Training and testing

TRAIN = [DISTILLATION, '--work-dir', 'run', '--seed', '0', '--fp32', '--cfg-options', *SHORT, 'train_cfg.max_epochs=6']


@pytest.fixture(scope='module')
def resumed_run(tmp_path_factory, environment, teacher, in_process):
    """A distillation run that was killed in the middle and resumed: its folder and what the second part printed."""
    folder = tmp_path_factory.mktemp('killed')
    with open(folder / 'first.txt', 'w') as log:
        first = subprocess.Popen(
            [sys.executable, str(TOOLS / 'train.py'), *TRAIN, f'model.teacher.checkpoint={teacher}'],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        # The pointer is written after the file that it names.
        pointer = folder / 'run' / 'last_checkpoint'
        while not (pointer.is_file() and pointer.read_text().endswith('epoch_2.pth')):
            assert first.poll() is None, (folder / 'first.txt').read_text()[-3000:]
            time.sleep(0.01)
        first.kill()
        assert first.wait() == -signal.SIGKILL
    assert not (folder / 'run' / 'epoch_6.pth').exists()
    code, output = in_process(folder, 'train.py', '--resume', *TRAIN[1:3], *TRAIN[:1], *TRAIN[3:],
                              f'model.teacher.checkpoint={teacher}')
    assert not code
    return folder / 'run', output


def changed_settings(output):
    """Settings in warnings of a log."""
    return re.findall(r'WARNING - .* ((?:data_preprocessor|default_hooks|model|optim_wrapper|randomness|train_cfg|'
                      r'\w+_dataloader)\.[\w.]+) ', output)


def test_a_killed_run_resumes_from_its_last_checkpoint_and_reaches_the_end(resumed_run):
    work_dir, output = resumed_run
    start = int(re.search(r'resumed epoch: (\d+)', output)[1])
    assert 2 <= start < 6
    assert not changed_settings(output)
    epochs = [line['epoch'] for line in scalars(work_dir) if 'loss' in line]
    assert epochs == list(range(start + 1, 7))
    checkpoint = torch.load(work_dir / 'epoch_6.pth')
    assert (checkpoint['meta']['epoch'], checkpoint['meta']['iter']) == (6, 12)
    assert Path((work_dir / 'last_checkpoint').read_text()).name == 'epoch_6.pth'


def test_every_epoch_logs_losses_lr_and_accuracies_as_text_json_and_tensorboard(resumed_run):
    work_dir, output = resumed_run
    training = [line for line in scalars(work_dir) if 'loss' in line]
    for line in training:
        layers = [f'backbone.group{stage}' for stage in range(3)]
        assert {'loss', 'loss_task', 'lr', 'accuracy_epoch', *(f'loss_at.{layer}' for layer in layers),
                *(f'at.{layer}' for layer in layers)} <= set(line)
        assert line['loss'] == pytest.approx(
            line['loss_task'] + sum(line[f'loss_at.{layer}'] for layer in layers), rel=1e-5)
        assert 0 <= line['accuracy_epoch'] <= 100
    validation = [line for line in scalars(work_dir) if 'accuracy/top1' in line]
    assert len(validation) == len(training)
    text = max(work_dir.glob('*/*.log')).read_text()
    for word in ('Epoch(train)', 'loss_at.backbone.group2', 'Epoch(val)', 'accuracy/top1', 'Teacher '):
        assert word in text
    assert list(work_dir.glob('*/vis_data/events.out.tfevents.*'))


def test_a_killed_run_gives_the_bits_of_one_never_killed(resumed_run, tool, teacher):
    code, _ = tool('train.py', *TRAIN, f'model.teacher.checkpoint={teacher}')
    assert not code
    straight, resumed = (torch.load(folder / 'epoch_6.pth')['state_dict'] for folder in (Path('run'), resumed_run[0]))
    for key, value in straight.items():
        assert torch.equal(value, resumed[key]), key


@pytest.mark.parametrize('config', [STUDENT, DISTILLATION])
def test_the_checkpoint_tests_with_the_plain_config_and_without_a_teacher_file(config, resumed_run, tool):
    work_dir, _ = resumed_run
    code, _ = tool('test.py', config, work_dir, '--out', 'metrics.json', '--fp32', '--cfg-options', *SHORT)
    assert not code
    # By hand.
    dataset = Digits('test', indices=60)
    network = build_network(STUDENT).eval()
    network.load_state_dict(torch.load(work_dir / 'epoch_6.pth')['state_dict'], strict=True)
    with torch.no_grad():
        scores = network((dataset.images.float() - 77.7) / 81.1)
    accuracy = 100 * (scores.argmax(1) == dataset.labels).float().mean().item()
    assert json.loads(Path('metrics.json').read_text()) == {'accuracy/top1': pytest.approx(accuracy, abs=1e-4)}


def test_predictions_are_dumped(resumed_run, tool):
    code, _ = tool('test.py', STUDENT, resumed_run[0] / 'epoch_6.pth', '--out', 'predictions.pkl', '--fp32',
                   '--cfg-options', *SHORT)
    assert not code
    predictions = pickle.loads(Path('predictions.pkl').read_bytes())
    assert [int(sample['gt_label']) for sample in predictions] == Digits('test', indices=60).labels.tolist()
    # Ten numbers each, and not the batch that they were part of.
    assert {sample['pred_score'].untyped_storage().nbytes() for sample in predictions} == {40}


def test_resuming_where_there_is_nothing_yet_starts(tool):
    code, _ = tool('train.py', STUDENT, '--resume', '--fp32', '--cfg-options', *SHORT, 'train_cfg.max_epochs=1')
    assert not code
    # The default folder is the config's name.
    assert torch.load(f'work_dirs/{STUDENT}/epoch_1.pth')['meta']['epoch'] == 1


def test_other_settings_of_a_resumed_run_are_refused_or_logged(tool):
    words = [STUDENT, '--work-dir', 'run', '--resume', '--fp32', '--cfg-options', *SHORT]
    code, _ = tool('train.py', *words, 'train_cfg.max_epochs=1')
    assert not code
    code, _ = tool('train.py', *words, 'train_cfg.max_epochs=2', 'optim_wrapper.optimizer.lr=0.001')
    assert code.startswith('train.py: error: ') and '\n' not in code
    assert all(part in code for part in ('optim_wrapper.optimizer.lr', '0.05', '0.001', 'load_from'))
    assert not Path('run/epoch_2.pth').exists()
    words.remove('train_dataloader.batch_size=25')
    code, output = tool('train.py', *words, 'train_cfg.max_epochs=2', 'train_dataloader.batch_size=10')
    assert not code and changed_settings(output) == ['train_dataloader.batch_size']


def test_a_training_without_batches_is_one_line(tool):
    code, _ = tool('train.py', STUDENT, '--work-dir', 'run', '--fp32', '--cfg-options', *SHORT,
                   'train_dataloader.drop_last=True', 'train_dataloader.batch_size=64')
    assert code.startswith('train.py: error: ') and '\n' not in code
    assert all(part in code for part in ('train_dataloader', '50', '64')) and not Path('run/epoch_1.pth').exists()


def test_a_checkpoint_of_other_classes_is_not_tested(tool, resumed_run):
    checkpoint = torch.load(resumed_run[0] / 'epoch_6.pth')
    checkpoint['meta']['dataset_meta']['classes'] = (*'012345678', 'ten')
    torch.save(checkpoint, 'other.pth')
    code, _ = tool('test.py', STUDENT, 'other.pth', '--fp32', '--cfg-options', *SHORT)
    assert code.startswith('test.py: error: ') and '\n' not in code
    assert all(part in code for part in ('test_dataloader', "'9'", "'ten'"))


# Several seeds in one process

def test_seeds_trained_together_are_those_trained_alone_also_after_a_kill(tool, teacher, environment):
    words = ['--batch-seed', '5', '--cfg-options', *SHORT, 'train_cfg.max_epochs=4',
             'model.student.data_preprocessor.padding=2', f'model.teacher.checkpoint={teacher}']
    together = [DISTILLATION, '--work-dir', 'run', '--seeds', '0', '1', '--resume', *words]
    with open('first.txt', 'w') as log:
        first = subprocess.Popen([sys.executable, str(TOOLS / 'train.py'), *together], env=environment, stdout=log,
                                 stderr=subprocess.STDOUT)
        while not Path('run/seed1/epoch_2.pth').is_file():
            assert first.poll() is None, Path('first.txt').read_text()[-3000:]
            time.sleep(0.01)
        first.kill()
        assert first.wait() == -signal.SIGKILL
    assert not Path('run/seed1/epoch_4.pth').exists()
    code, output = tool('train.py', *together)
    assert not code and output.count('resumed epoch: ') == 2 and not changed_settings(output)
    code, _ = tool('train.py', DISTILLATION, '--work-dir', 'alone', '--seed', '1', *words)
    assert not code
    first, second = (torch.load(folder + '/epoch_4.pth') for folder in ('run/seed1', 'alone'))
    for part in ('state_dict', 'optimizer'):
        assert tree_all(torch.equal, first[part], second[part])
    accuracies = [[line['accuracy/top1'] for line in scalars(folder) if 'accuracy/top1' in line]
                  for folder in ('run/seed1', 'alone')]
    assert accuracies[0] == accuracies[1][-len(accuracies[0]):] and accuracies[0]
    # The other is another.
    other = torch.load('run/seed0/epoch_4.pth')['state_dict']
    assert not tree_all(torch.equal, first['state_dict'], other)


def tree_all(equal, first, second):
    """Whether all tensors of two containers are equal."""
    (leaves, spec), (others, other_spec) = tree_flatten(first), tree_flatten(second)
    return spec == other_spec and all(equal(*pair) if isinstance(pair[0], torch.Tensor) else pair[0] == pair[1]
                                      for pair in zip(leaves, others))


def test_the_batches_seed_is_the_first_of_the_seeds(tool, monkeypatch):
    configs = []
    monkeypatch.setattr('mmat.apis.seeds.train_together', lambda seeds, make: configs.extend(map(make, seeds)))
    monkeypatch.setattr(launch.Runner, 'from_cfg', lambda config: config)
    monkeypatch.setattr(launch, 'has_fast_bf16', lambda: True)
    for words, batch_seed in ((('--seeds', 4, 2), 4), (('--seeds', 4, 2, '--batch-seed', 1), 1)):
        code, _ = tool('train.py', STUDENT, '--work-dir', 'w', *words)
        assert not code
        made, configs[:] = list(configs), []
        assert [config.randomness.seed for config in made] == [4, 2]
        assert [config.work_dir for config in made] == ['w/seed4', 'w/seed2']
        assert len({config.experiment_name for config in made}) == 2
        for config in made:
            assert config.train_dataloader.sampler.seed == config.model.data_preprocessor.seed == batch_seed
            assert config.optim_wrapper.type == 'mmat.AutocastOptimWrapper'


def test_without_a_batch_seed_nothing_is_set(tool, monkeypatch):
    config = options(tool, monkeypatch, '--seed', '3')
    assert 'seed' not in config.train_dataloader.sampler and 'seed' not in config.model.data_preprocessor


@pytest.mark.parametrize('words, names', [
    (['--seeds', '0', '0'], ['--seeds', '0']),
    (['--seeds', '0', '1', '--launcher', 'pytorch'], ['--launcher', '--seed']),
    (['--seeds', '0', '1', '--resume', 'finished/epoch_1.pth'], ['--seeds', '--resume']),
    (['--seeds', '0', '1', '--cfg-options', 'train_dataloader.num_workers=2'], ['train_dataloader.num_workers=0', '2']),
    (['--seed', '0', '--batch-seed', '1', '--cfg-options', 'train_dataloader.num_workers=2'],
     ['train_dataloader.num_workers=0', '2']),
    (['--seeds', '0', '1', '--cfg-options', 'model.backbone.type=mmat.WideResnet'],
     ['seed 0: ', "'mmat.WideResnet'", "'mmat.WideResNet'"]),
])
def test_seeds_that_cannot_be_trained_together_are_one_line(words, names, tool):
    code, _ = tool('train.py', STUDENT, '--work-dir', 'run', *words)
    assert code.startswith('train.py: error: ') and '\n' not in code
    assert [name for name in names if name not in code] == []
    assert not list(Path('.').rglob('*.pth'))


def test_either_one_seed_or_several(tool, capsys):
    code, _ = tool('train.py', STUDENT, '--seed', '0', '--seeds', '0', '1')
    assert code == 2 and 'not allowed with argument --seed' in capsys.readouterr().err


# Options of train.py

class Stopped(Exception):
    pass


@pytest.mark.parametrize('words, expected', [
    (['--seed', '3'], dict(seed=3, deterministic=False)),
    (['--deterministic'], dict(seed=None, deterministic=True)),
    (['--seed', '0', '--deterministic'], dict(seed=0, deterministic=True)),
    # What a config asks for stays.
    (['--seed', '3', '--cfg-options', 'randomness.deterministic=True'], dict(seed=3, deterministic=True)),
    (['--deterministic', '--cfg-options', 'randomness.seed=4'], dict(seed=4, deterministic=True)),
])
def test_seed_and_deterministic(words, expected, tool, monkeypatch):
    assert {key: options(tool, monkeypatch, *words).randomness.get(key) for key in expected} == expected


def test_the_rate_follows_the_batch(tool, monkeypatch):
    assert options(tool, monkeypatch, '--auto-scale-lr').auto_scale_lr == dict(base_batch_size=10, enable=True)
    assert not options(tool, monkeypatch).auto_scale_lr.get('enable')
    code, _ = tool('train.py', STUDENT, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None')
    assert '--auto-scale-lr' in code and 'base_batch_size' in code and STUDENT in code


@pytest.mark.parametrize('words, wrapper', [
    (['--amp'], 'mmat.AutocastOptimWrapper'),
    (['--amp', '--fp32'], 'mmat.AutocastOptimWrapper'),
    ([], 'mmat.AutocastOptimWrapper'),
    (['--fp32'], None),
])
def test_precision(words, wrapper, tool, monkeypatch):
    assert options(tool, monkeypatch, *words).optim_wrapper.get('type') == wrapper


@pytest.fixture
def finished(tmp_path):
    """A work directory of two epochs, the second being its last, and of a third that its pointer does not name."""
    path = tmp_path / 'finished'
    path.mkdir()
    for epoch in (1, 2, 3):
        torch.save(dict(state_dict={}), path / f'epoch_{epoch}.pth')
    (path / 'last_checkpoint').write_text('/moved/since/epoch_2.pth')
    return path


@pytest.mark.parametrize('given, expected', [
    ('finished', 'finished/epoch_2.pth'),
    ('finished/epoch_1.pth', 'finished/epoch_1.pth'),
    ('https://host/epoch_1.pth', 'https://host/epoch_1.pth'),
])
def test_load_from_may_be_a_work_directory(given, expected, finished, tool, monkeypatch):
    config = options(tool, monkeypatch, '--cfg-options', f'load_from={given}')
    assert config.load_from == expected and not config.get('resume')


def test_nothing_is_loaded_where_nothing_is_named(tool, monkeypatch):
    assert not options(tool, monkeypatch).get('load_from')


@pytest.mark.parametrize('work_dir, expected', [('finished', 'finished/epoch_2.pth'), ('new', 'other.pth')])
def test_what_is_resumed_comes_before_load_from(work_dir, expected, finished, tool, monkeypatch):
    Path('other.pth').write_bytes((finished / 'epoch_1.pth').read_bytes())
    config = options(tool, monkeypatch, '--resume', '--work-dir', work_dir, '--cfg-options', 'load_from=other.pth')
    assert config.load_from == expected and bool(config.get('resume')) is (work_dir == 'finished')


@pytest.mark.parametrize('given, names', [
    ('finishd', ["'finishd'", 'finished']),
    ('finished/epoch_9.pth', ["'finished/epoch_9.pth'", 'epoch_1.pth']),
    ('empty', ["'empty'"]),
])
def test_a_missing_load_from_stops_training_with_one_line(given, names, finished, tool, monkeypatch):
    Path('empty').mkdir()
    # Before anything is built.
    monkeypatch.setattr(launch.Runner, 'from_cfg', lambda config: pytest.fail('it went on'))
    code, _ = tool('train.py', STUDENT, '--work-dir', 'run', '--cfg-options', f'load_from={given}')
    assert code.startswith('train.py: error: ') and '\n' not in code
    assert [name for name in names if name not in code] == []
    assert not Path('run').exists()


def test_hooks_cannot_come_from_the_command_line(tool):
    code, _ = tool('train.py', STUDENT, '--cfg-options', "custom_hooks=[dict(type='mmat.AttentionVisualizationHook')]")
    assert code.startswith('train.py: error: custom_hooks ')
    assert '--cfg-options default_hooks.NAME.type=TYPE' in code and '\n' not in code


def options(tool, monkeypatch, *words):
    """The config with which train.py would have made its Runner."""
    made = []

    def stop(config):
        made.append(config)
        raise Stopped

    monkeypatch.setattr(launch.Runner, 'from_cfg', stop)
    monkeypatch.setattr(launch, 'has_fast_bf16', lambda: True)
    with pytest.raises(Stopped):
        tool('train.py', STUDENT, *words)
    return made[0]


# Messages

@pytest.fixture(scope='module')
def other_network(tmp_path_factory):
    path = tmp_path_factory.mktemp('other') / 'epoch_1.pth'
    torch.save(dict(state_dict=build_network(STUDENT).state_dict()), path)
    return str(path)


@pytest.mark.parametrize('config, option, names', [
    (DISTILLATION[:-1], None, [f'{DISTILLATION[:-1]!r}', DISTILLATION]),
    (DISTILLATION, "model.at_heads.0.pairs=[('backbone.gruop0','backbone.group0')]",
     ['student', "'backbone.gruop0'", "'backbone.group0'"]),
    (DISTILLATION, "model.at_heads.0.pairs=[(0,'backbone.gruop0')]",
     ['teacher', "'backbone.gruop0'", "'backbone.group0'"]),
    (DISTILLATION, 'model.student.backbone.type=mmat.WideResnet', ["'mmat.WideResnet'", "'mmat.WideResNet'"]),
    (DISTILLATION, 'model.at_heads.0.type=mmat.ActivationAtHead', ["'mmat.ActivationATHead'"]),
    (DISTILLATION, 'train_dataloader.dataset.type=mmat.Digit', ["'mmat.Digits'"]),
    (DISTILLATION, 'default_hooks.distillation.type=mmat.DistilHook', ["'mmat.DistillationHook'"]),
    (DISTILLATION, 'model.teacher.checkpoint=absent/epoch_1.pth',
     ["'absent/epoch_1.pth'", '--cfg-options model.teacher.checkpoint=PATH']),
    (DISTILLATION, 'model.teacher.checkpoint=OTHER', ['epoch_1.pth', 'ImageClassifier']),
    (DISTILLATION, 'model.student.head.num_classes=5', ['LinearClsHead', '5', 'Digits', '10']),
    (DISTILLATION, 'model.at_heads.0.form=papers', ["'code'", "'paper'", "'papers'"]),
    (DISTILLATION, 'optim_wrapper.optimizer.type=SDG', ["'SDG'", "'SGD'"]),
    (DISTILLATION, 'train_cfg.max_epoch=1', ["'max_epoch'", "'max_epochs'"]),
    (DISTILLATION, 'param_scheduler.gama=0.1', ["'gama'", "'gamma'"]),
    (DISTILLATION, 'default_hooks.logger.intervall=1', ["'intervall'", "'interval'"]),
    (DISTILLATION, 'train_dataloader=None', ["'train_dataloader'"]),
])
def test_a_mistake_stops_training_with_one_line(config, option, names, tool, teacher, other_network):
    changes = [*SHORT, 'train_cfg.max_epochs=1', 'log_level=ERROR', f'model.teacher.checkpoint={teacher}']
    if option:
        changes.append(option.replace('OTHER', other_network))
    code, _ = tool('train.py', config, '--work-dir', 'run', '--fp32', '--cfg-options', *changes)
    assert isinstance(code, str) and '\n' not in code and code.startswith('train.py: error: ')
    assert [name for name in names if name not in code] == []
    assert not list(Path('run').glob('*.pth'))


@pytest.mark.parametrize('words, names', [
    ([STUDENT, 'OTHER', '--out', 'metrics.txt'], ['--out', '.json', "'metrics.txt'"]),
    ([STUDENT, 'absent.pth'], ["'absent.pth'"]),
    ([TEACHER, 'OTHER'], ['epoch_1.pth', 'ImageClassifier']),
    (['wrn16-1_digits', 'OTHER'], ["'wrn16-1_digits'"]),
])
def test_a_mistake_stops_testing_with_one_line(words, names, tool, other_network):
    words = [other_network if word == 'OTHER' else word for word in words]
    code, _ = tool('test.py', *words, '--fp32')
    assert isinstance(code, str) and '\n' not in code and code.startswith('test.py: error: ')
    assert [name for name in names if name not in code] == []


# Others

def test_print_config_prints_a_config(tool):
    code, output = tool('misc/print_config.py', DISTILLATION, '--cfg-options', 'model.at_heads.0.weight=7')
    assert not code
    expected = Config.fromfile(find_config(DISTILLATION))
    expected.model.at_heads[0].weight = 7
    assert Config.fromstring(output, '.py').to_dict() == expected.to_dict()


SCRIPTS = sorted(TOOLS.rglob('*.sh'))


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_well_formed(script):
    assert os.access(script, os.X_OK)
    subprocess.run(['bash', '-n', str(script)], check=True)


@pytest.fixture
def fake(tmp_path):
    """An environment where a command prints its arguments, one a line."""

    def make(command, **variables):
        path = tmp_path / 'bin' / command
        path.parent.mkdir()
        path.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
        path.chmod(0o755)
        read = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'SRUN_ARGS')
        clean = {key: value for key, value in os.environ.items() if key not in read}
        return {**clean, 'PATH': f'{path.parent}{os.pathsep}{os.environ["PATH"]}', **variables}

    return make


@pytest.mark.parametrize('variables, rendezvous', [
    ({}, ['--standalone']),
    (dict(PORT='29600'),
     ['--nnodes', '1', '--node-rank', '0', '--master-addr', '127.0.0.1', '--master-port', '29600']),
    (dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='host', PORT='1234'),
     ['--nnodes', '2', '--node-rank', '1', '--master-addr', 'host', '--master-port', '1234']),
    (dict(NNODES='2', MASTER_ADDR='host'),
     ['--nnodes', '2', '--node-rank', '0', '--master-addr', 'host', '--master-port', '29500']),
])
@pytest.mark.parametrize('script, words, arguments', [
    ('dist_train.sh', ['a config.py', '4', '--seed', '1'], ['train.py', 'a config.py', '--seed', '1']),
    ('dist_test.sh', ['config.py', 'a file.pth', '4', '--out', 'o.json'],
     ['test.py', 'config.py', 'a file.pth', '--out', 'o.json']),
])
def test_dist_scripts_use_torchrun(script, words, arguments, variables, rendezvous, fake):
    output = subprocess.run([str(TOOLS / script), *words], env=fake('python', **variables), check=True,
                            capture_output=True, text=True).stdout.splitlines()
    assert output == [str(TOOLS / 'dist_run.py'), *rendezvous, '--nproc-per-node', '4', str(TOOLS / arguments[0]),
                      *arguments[1:], '--launcher', 'pytorch']


@pytest.mark.parametrize('variables, expected', [
    ({}, ['--ntasks=8', '--gres=gpu:8', '--ntasks-per-node=8', '--cpus-per-task=5']),
    (dict(GPUS='2'), ['--ntasks=2', '--gres=gpu:2', '--ntasks-per-node=2']),
    (dict(GPUS='16', CPUS_PER_TASK='3'), ['--ntasks=16', '--gres=gpu:8', '--ntasks-per-node=8', '--cpus-per-task=3']),
    (dict(GPUS='4', SRUN_ARGS='--qos=low --exclusive'), ['--ntasks=4', '--qos=low', '--exclusive']),
    # Without GPUs.
    (dict(GPUS='4', GPUS_PER_NODE='0'), ['--ntasks=4']),
])
@pytest.mark.parametrize('script, words', [('slurm_train.sh', ['config.py', '--seed', '1']),
                                           ('slurm_test.sh', ['config.py', 'a file.pth', '--out', 'o.json'])])
def test_slurm_scripts_use_srun(script, words, variables, expected, fake):
    output = subprocess.run([str(TOOLS / script), 'part', 'job name', *words], env=fake('srun', **variables),
                            check=True, capture_output=True, text=True).stdout.splitlines()
    split = output.index('python')
    assert output[split:] == ['python', '-u', str(TOOLS / script.split('_')[1].replace('.sh', '.py')), *words,
                              '--launcher', 'slurm']
    assert {'-p', 'part', '--job-name=job name', '--kill-on-bad-exit=1', *expected} <= set(output[:split])
    if variables.get('GPUS_PER_NODE') == '0':
        assert not [word for word in output[:split] if word.startswith('--gres')]


@pytest.mark.parametrize('script', [script.name for script in SCRIPTS if not script.name.endswith('_run.sh')])
def test_scripts_without_arguments_say_how_to_use_them(script):
    done = subprocess.run([str(TOOLS / script)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('usage: ')


def test_two_processes_train_and_test(environment, tmp_path):
    def run(script, *words):
        done = subprocess.run([str(TOOLS / script), *words, '--cfg-options', *SHORT, 'train_cfg.max_epochs=1'],
                              cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    environment = {**environment, 'OMP_NUM_THREADS': '1'}
    run('dist_train.sh', STUDENT, '2', '--seed', '0')
    checkpoint = torch.load(tmp_path / 'work_dirs' / STUDENT / 'epoch_1.pth')
    # 50 images in batches of 25 on each of two processes: one step.
    assert checkpoint['meta']['iter'] == 1 and len(checkpoint['rng_states']) == 2
    run('dist_test.sh', STUDENT, f'work_dirs/{STUDENT}', '2', '--out', 'metrics.json')
    assert 0 <= json.loads((tmp_path / 'metrics.json').read_text())['accuracy/top1'] <= 100


def test_the_error_of_a_rank_is_the_last_line(environment, tmp_path):
    done = subprocess.run([str(TOOLS / 'dist_train.sh'), STUDENT, '2', '--cfg-options', 'train_cfg.max_epoch=1'],
                          cwd=tmp_path, env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith('rank 0: train.py: error: ') and "'max_epochs'" in last
