import argparse
import os
import sys

import pytest
import torch.distributed as dist
import torch.nn as nn
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch.utils.data import DataLoader, Dataset

from mmat.apis import launch
from mmat.datasets import LoadImage
from mmat.engine import AutocastOptimWrapper
from mmat.errors import ConfigError, MissingFileError, UserError
from mmat.registry import MODELS

NAME = 'wrn16-1_at-wrn16-2_1xb128_cifar10'


@pytest.fixture(autouse=True)
def leave_the_allocator_alone(monkeypatch):
    monkeypatch.setattr(launch, 'keep_freed_memory', lambda: False)
    monkeypatch.setattr(launch, 'has_fast_bf16', lambda: True)


def parse(monkeypatch, *words):
    # Set and taken away again, so that what parsing puts there goes with the test.
    monkeypatch.setenv('LOCAL_RANK', '')
    monkeypatch.delenv('LOCAL_RANK')
    monkeypatch.setattr(sys, 'argv', ['tool.py', NAME, *words])
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    return launch.parse_common_args(parser)


# Arguments

@pytest.mark.parametrize('words, rank', [([], '0'), (['--local-rank', '3'], '3'), (['--local_rank', '3'], '3'),
                                         (['--local_rank=3'], '3')])
def test_the_local_rank_in_both_spellings(words, rank, monkeypatch):
    parse(monkeypatch, *words)
    assert os.environ['LOCAL_RANK'] == rank


def test_torchruns_local_rank_is_kept(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '5')
    monkeypatch.setattr(sys, 'argv', ['tool.py'])
    launch.parse_common_args(argparse.ArgumentParser())
    assert os.environ['LOCAL_RANK'] == '5'


@pytest.mark.parametrize('words, get, value', [
    ([], lambda c: c.work_dir, f'work_dirs/{NAME}'),
    (['--work-dir', 'w'], lambda c: c.work_dir, 'w'),
    (['--cfg-options', 'work_dir=v'], lambda c: c.work_dir, 'v'),
    (['--cfg-options', 'work_dir=v', '--work-dir', 'w'], lambda c: c.work_dir, 'w'),
    ([], lambda c: c.launcher, 'none'),
    (['--launcher', 'slurm'], lambda c: c.launcher, 'slurm'),
    (['--cfg-options', 'model.teacher.checkpoint=a.pth'], lambda c: c.model.teacher.checkpoint, 'a.pth'),
    (['--cfg-options', 'model.teacher.checkpoint=my runs/a.pth'],
     lambda c: c.model.teacher.checkpoint, 'my runs/a.pth'),
    (['--cfg-options', 'model.at_heads.0.pairs=[(1, 2), (0, 1)]'],
     lambda c: c.model.at_heads[0].pairs, [(1, 2), (0, 1)]),
    # An element of a list, and a list of tuples.
    (['--cfg-options', 'model.at_heads.0.weight=5'], lambda c: c.model.at_heads[0].weight, 5),
    (['--cfg-options', 'model.at_heads.0.weight=5'], lambda c: c.model.at_heads[0].type, 'mmat.ActivationATHead'),
    (['--cfg-options', 'model.at_heads.0.pairs=[(1,2)]'], lambda c: c.model.at_heads[0].pairs, [(1, 2)]),
    (['--cfg-options', 'train_cfg.max_epochs=3', 'model.at_heads.0.form=paper'],
     lambda c: (c.train_cfg.max_epochs, c.train_cfg.val_interval, c.model.at_heads[0].form), (3, 1, 'paper')),
])
def test_a_command_line_makes_a_config(words, get, value, monkeypatch):
    assert get(launch.load_config(parse(monkeypatch, *words))) == value


# The CPU setting

def config(model, **kwargs):
    return Config(dict(model=model, optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), **kwargs))


@pytest.mark.parametrize('given, expected', [
    (None, 'mmat.AutocastOptimWrapper'),
    ('OptimWrapper', 'mmat.AutocastOptimWrapper'),
    # A config that names another keeps it.
    ('AmpOptimWrapper', 'AmpOptimWrapper'),
    ('mmat.AutocastOptimWrapper', 'mmat.AutocastOptimWrapper'),
])
def test_bf16_where_the_config_leaves_it_open(given, expected, network_config):
    changed = config(network_config())
    if given:
        changed.optim_wrapper.type = given
    launch.apply_cpu_setting(changed)
    assert changed.optim_wrapper.type == expected


def test_no_bf16_where_the_cpu_emulates_it(monkeypatch, network_config):
    monkeypatch.setattr(launch, 'has_fast_bf16', lambda: False)
    changed = config(network_config())
    launch.apply_cpu_setting(changed)
    assert 'type' not in changed.optim_wrapper and changed.model.data_preprocessor.channels_last


@pytest.mark.parametrize('given, expected', [({}, True), (dict(channels_last=False), False)])
@pytest.mark.parametrize('place', ['model', 'top', 'student', 'distiller'])
def test_channels_last_where_the_config_leaves_it_open(place, given, expected, network_config, distiller_config):
    student = network_config()
    preprocessor = {**student.pop('data_preprocessor'), **given}
    changed = config(student)
    if place == 'top':
        changed.data_preprocessor = preprocessor
    elif place == 'model':
        changed.model.data_preprocessor = preprocessor
    elif place == 'student':
        changed.model = distiller_config(student={**student, 'data_preprocessor': preprocessor})
    else:
        changed.model = distiller_config(student=student, data_preprocessor=preprocessor)
    launch.apply_cpu_setting(changed)
    if place == 'top':  # as the Runner does
        changed.model.data_preprocessor = changed.data_preprocessor
    assert MODELS.build(changed.model).data_preprocessor.channels_last is expected


def test_other_preprocessors_and_configs_that_do_not_train_are_left_alone(network_config):
    preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', mean=[0.] * 3, std=[1.] * 3)
    changed = Config(dict(model={**network_config(), 'data_preprocessor': preprocessor}, data_preprocessor=None))
    before = changed.pretty_text
    launch.apply_cpu_setting(changed)
    assert changed.pretty_text == before


def test_a_student_by_name(network_config, distiller_config):
    changed = config(network_config())
    changed.model = distiller_config(student='wrn16-1_1xb128_cifar10')
    launch.apply_cpu_setting(changed)
    assert changed.optim_wrapper.type == 'mmat.AutocastOptimWrapper'


@pytest.mark.parametrize('fp32, wrapper, channels_last', [(False, AutocastOptimWrapper, True),
                                                          (True, OptimWrapper, False)])
def test_fp32_keeps_the_config(fp32, wrapper, channels_last, network_config, make_runner, tmp_path):
    plain = make_runner(network_config()).cfg
    plain.update(launcher='none', work_dir=str(tmp_path / 'other'), experiment_name=f'fp32_{fp32}')
    runner = launch.build_runner(plain, fp32=fp32)
    assert runner.model.data_preprocessor.channels_last is channels_last
    assert type(runner.build_optim_wrapper(runner.optim_wrapper)) is wrapper


# Processes

@pytest.mark.parametrize('launcher, variable', [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'),
                                                ('mpi', 'OMPI_COMM_WORLD_RANK')])
def test_a_launcher_that_did_not_launch(launcher, variable, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', variable):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=f'{launcher}.*{variable}'):
        launch.build_runner(Config(dict(model=dict(), launcher=launcher)), fp32=True)


@pytest.mark.parametrize('launcher, names', [
    ('pytorch', ['RANK', 'WORLD_SIZE', 'LOCAL_RANK']),
    ('slurm', ['SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID']),
    ('mpi', ['OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK']),
])
def test_the_rank_is_read_from_each_launchers_variables(launcher, names, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    for name, value in zip(names, ('6', '8', '2')):
        monkeypatch.setenv(name, value)
    joined = []
    monkeypatch.setattr(launch.dist, 'init_process_group', lambda backend: joined.append(
        (backend, *(os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')))))
    launch._init_gloo(launcher)
    assert joined == [('gloo', '6', '8', '2', '127.0.0.1', '29500')]


# Messages

def run(main, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])
    with pytest.raises(SystemExit) as stop:
        launch.command_line(main)
    return stop.value.code


@pytest.mark.parametrize('result', [None, 0, 3])
def test_the_exit_status_is_the_commands(result, monkeypatch):
    assert run(lambda: result, monkeypatch) == result


@pytest.mark.parametrize('main, names', [
    (lambda: launch.find_config('nowhere.py'), ["'nowhere.py'"]),
    (lambda: MODELS.build(dict(type='mmat.WideResNet', depth=17)), ['WideResNet', '17', '16']),
    (lambda: MODELS.build(dict(type='mmat.WideResnet')), ["'mmat.WideResnet'", "'mmat.WideResNet'"]),
])
def test_a_users_mistake_is_one_line(main, names, monkeypatch):
    code = run(main, monkeypatch)
    assert code.startswith('train.py: error: ') and '\n' not in code
    assert [name for name in names if name not in code] == []


def test_the_seed_of_a_failed_run_is_named(monkeypatch):
    def fail():
        error = UserError('wrong')
        error.seed = 3
        raise error

    assert run(fail, monkeypatch) == 'train.py: error: seed 3: wrong'


@pytest.mark.parametrize('error, text', [(UserError('wrong'), 'train.py: error: wrong\n'),
                                         (KeyError('oops'), "KeyError: 'oops'\n")])
def test_a_rank_leaves_its_error_for_the_launcher(error, text, monkeypatch, tmp_path):
    monkeypatch.setenv(launch.ERROR_DIR, str(tmp_path))
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])

    def fail():
        raise error

    with pytest.raises((SystemExit, KeyError)):
        launch.command_line(fail)
    left = (tmp_path / '1').read_text()
    assert left.endswith(text) and ('Traceback' in left) == isinstance(error, KeyError)


@pytest.mark.parametrize('error', [ValueError, TypeError, FileNotFoundError, KeyError, RuntimeError])
def test_a_bug_keeps_its_traceback(error):
    def fail():
        raise error('elsewhere')

    with pytest.raises(error):
        launch.command_line(fail)


@pytest.mark.parametrize('options, names', [
    ({'trian_cfg.max_epochs': 2}, ["'trian_cfg'", "'train_cfg'"]),
    ({'zzz': 2}, ["'zzz'"]),
    ({'train_cfg.max_epochs.a': 2}, ['--cfg-options', 'max_epochs']),
    ({'custom_hooks.5.a': 2}, ['--cfg-options', '5']),
])
def test_an_option_that_does_not_fit_is_named(options, names):
    with pytest.raises(ConfigError) as error:
        launch.merge_options(Config(dict(train_cfg=dict(max_epochs=3), custom_hooks=[dict(a=1)])), options)
    assert [name for name in names if name not in str(error.value)] == []


@pytest.mark.parametrize('text, error, names', [
    ('a = (\n', ConfigError, ['config.py', 'line 1']),
    ("_base_ = 'absent.py'\n", MissingFileError, ['config.py', 'absent.py']),
    ('optim_wraper = dict()\n', ConfigError, ["'optim_wraper'", "'optim_wrapper'"]),
])
def test_a_config_that_cannot_be_read_is_named(text, error, names, tmp_path):
    (tmp_path / 'config.py').write_text(text)
    with pytest.raises(error) as raised:
        launch.read_config(str(tmp_path / 'config.py'))
    assert [name for name in names if name not in str(raised.value)] == []


def test_settings_that_the_config_leaves_out():
    config = Config(dict(train_cfg=dict(max_epochs=3)))
    launch.merge_options(config, {'train_cfg.max_epochs': 2, 'load_from': 'a.pth', 'custom_imports.imports': ['b'],
                                  'find_unused_parameters': True, 'randomness.seed': 3})
    assert (config.train_cfg.max_epochs, config.load_from, config.randomness.seed) == (2, 'a.pth', 3)
    launch.merge_options(config, None)


class Broken(Dataset):

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.item()


def test_a_users_mistake_that_a_loaders_worker_meets_is_one_line(monkeypatch, tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'no image')
    dataset = Broken(lambda: LoadImage()(dict(img_path=str(tmp_path / 'a.jpg'))))
    code = run(lambda: list(DataLoader(dataset, num_workers=1)), monkeypatch)
    assert code.startswith('train.py: error: ') and str(tmp_path / 'a.jpg') in code and '\n' not in code


def test_a_bug_in_a_loaders_worker_keeps_its_traceback():
    with pytest.raises(ValueError, match='(?s)DataLoader worker.*invalid literal'):
        launch.command_line(lambda: list(DataLoader(Broken(lambda: nn.Linear(1, 1)(int('x'))), num_workers=1)))


def test_a_run_that_is_done_dissolves_its_process_group(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    with pytest.raises(SystemExit) as done:
        launch.command_line(lambda: 3)
    assert done.value.code == 3 and not dist.is_initialized()
