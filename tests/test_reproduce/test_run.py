import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmat.errors import ConfigError, FileError, MissingFileError
from mmat.reproduce import joint_runs
from mmat.reproduce.run import Run, open_run, read_json

HOLDER = ('import fcntl, sys, time; file = open(sys.argv[1], "w"); fcntl.flock(file, fcntl.LOCK_EX); '
          'print("mine", flush=True); time.sleep(60)')


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / 'net' / 'seed3', 'net', 3, 10, options={'train_cfg.max_epochs': 10}, config_hash='one')


@pytest.fixture
def student(run, tmp_path):
    return Run(tmp_path / 'taught' / 'seed0', 'configs/taught.py', 0, 10, teacher=run)


def test_a_run_is_read_back(student, run):
    run.prepare()
    student.prepare()
    again = open_run(student.work_dir)
    for one, other in ((again, student), (again.teacher, run)):
        assert {**vars(one), 'teacher': None} == {**vars(other), 'teacher': None}
    assert run.record == dict(config='net', seed=3, epochs=10, options={'train_cfg.max_epochs': 10}, processes=1,
                              teacher=None, config_hash='one', attempts=[])
    assert student.record['teacher'] == '../../net/seed3'
    assert run.label == 'net, seed 3' and not run.is_running and run.result is run.failure is None


def test_the_whole_table_can_be_moved(student, run, tmp_path):
    run.prepare()
    student.prepare()
    moved = tmp_path / 'else where' / 'ünïcode'
    moved.mkdir(parents=True)
    for name in ('net', 'taught'):
        (tmp_path / name).rename(moved / name)
    assert open_run(moved / 'taught' / 'seed0').teacher.work_dir == moved / 'net' / 'seed3'


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(MissingFileError, match=f'{tmp_path}.*run.json'):
        open_run(tmp_path)


@pytest.mark.parametrize('key, value, planned', [
    ('seed', 4, 3),
    ('epochs', 9, 10),
    ('options', {}, {'train_cfg.max_epochs': 10}),
    ('processes', 2, 1),
    ('teacher', '../../x/seed0', None),
])
def test_other_settings_are_refused(run, key, value, planned):
    run.prepare()
    record = {**run.record, key: value}
    (run.work_dir / 'run.json').write_text(json.dumps(record))
    with pytest.raises(ConfigError) as error:
        run.prepare()
    for part in ("net/seed3'", f'{key} ', repr(value), repr(planned), '--work-dir'):
        assert part in str(error.value)
    assert run.record == record


def test_a_config_may_be_spelled_differently(run):
    run.prepare()
    Run(**{**vars(run), 'config': 'configs/net.py'}).prepare()
    assert run.record['config'] == 'net'


def test_a_config_that_has_changed(run):
    """A finished run stays valid; an unfinished one is not continued with another config."""
    run.prepare()
    changed = Run(**{**vars(run), 'config_hash': 'two'})
    assert changed.is_outdated and not run.is_outdated
    with pytest.raises(ConfigError, match=" net .*net/seed3'"):
        changed.prepare()
    (run.work_dir / 'result.json').write_text('{"metrics": {}}')
    changed.prepare()
    assert not Run(**{**vars(run), 'config_hash': None}).is_outdated


def test_attempts_are_kept(run):
    run.prepare()
    record = {**run.record, 'attempts': [dict(started=1., host='h', commit=None)]}
    (run.work_dir / 'run.json').write_text(json.dumps(record))
    run.prepare()
    assert run.record == record


@pytest.mark.parametrize('blocked', ['.', 'net'])
def test_a_folder_that_cannot_be_written_to(tmp_path, blocked):
    (tmp_path / 'table').mkdir()
    place = tmp_path / 'table' / blocked
    if blocked == '.':
        place.rmdir()
    place.write_text('a file')
    run = Run(tmp_path / 'table' / 'net' / 'seed0', 'net', 0, 1)
    assert run.record == {} and run.result is None and not run.is_running
    with pytest.raises(FileError, match="net/seed0'.*--work-dir"):
        run.prepare()


@pytest.mark.parametrize('name, deleted', [('run', "seed3'"), ('result', 'the file'), ('failure', 'the file')])
def test_a_damaged_file(run, name, deleted):
    run.prepare()
    (run.work_dir / f'{name}.json').write_text('{"config": ')
    with pytest.raises(FileError, match=f"{name}.json' .*Delete .*{deleted}"):
        getattr(run, 'record' if name == 'run' else name)


def test_no_file_is_none(tmp_path):
    assert read_json(tmp_path / 'x.json') is None


def test_the_lock_is_for_one_process(run):
    run.prepare()
    holder = subprocess.Popen([sys.executable, '-S', '-c', HOLDER, str(run.work_dir / 'lock')], stdout=subprocess.PIPE)
    holder.stdout.readline()
    with run.lock() as mine:
        assert mine is None and run.is_running
    holder.kill()  # SIGKILL: it cannot clean up
    holder.wait()
    holder.stdout.close()
    with run.lock() as mine:
        assert mine is not None
        assert run.is_running  # also if asked from this process
    assert not run.is_running


def test_child_processes_hold_the_lock_too(run):
    run.prepare()
    with run.lock() as mine:
        child = subprocess.Popen([sys.executable, '-S', '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=[mine])
        stranger = subprocess.Popen([sys.executable, '-S', '-c', 'input()'], stdin=subprocess.PIPE)
    assert run.is_running
    child.communicate(b'\n')
    assert not run.is_running
    stranger.communicate(b'\n')


def test_lines_of_all_logs_in_order(run):
    assert run.progress() == []
    for name, text in [('20260102_000000', '{"step": 2}\n{"st'), ('20260101_000000', '{"step": 1}\n\n')]:
        folder = run.work_dir / name / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(text)
    assert run.progress() == [dict(step=1), dict(step=2)]


def test_the_command_line(run, student, tmp_path):
    tools = Path(__file__).parents[2] / 'tools'
    assert run.command() == [
        sys.executable, f'{tools}/train.py', 'net', '--work-dir', f'{tmp_path}/net/seed3', '--seed', '3', '--resume',
        '--cfg-options', 'train_cfg.max_epochs=10']
    assert student.command()[-2:] == ['--cfg-options', f'model.teacher.checkpoint={tmp_path}/net/seed3']
    assert run.command('test') == [
        sys.executable, f'{tools}/test.py', 'net', f'{tmp_path}/net/seed3', '--work-dir', f'{tmp_path}/net/seed3/test',
        '--out', f'{tmp_path}/net/seed3/test.json']
    shared = Run(**{**vars(run), 'processes': 4})
    assert shared.command()[:6] == [sys.executable, '-m', 'torch.distributed.run', '--standalone',
                                    '--nproc_per_node=4', f'{tools}/train.py']
    assert shared.command()[-4:-2] == ['--launcher', 'pytorch'] and shared.command('test') == run.command('test')


def test_options_as_arguments(tmp_path):
    teacher = Run(tmp_path / 'a b' / 'seed0', 'a', 0, 1)
    run = Run(tmp_path / 'x' / 'seed0', 'x', 0, 1, options={'param_scheduler.milestones': [3, 6], 'a': 1.5, 'b': 'w z'},
              teacher=teacher)
    own = ['param_scheduler.milestones=[3,6]', 'a=1.5', 'b=w z']
    assert run.command_options(teacher=False) == own
    assert run.command_options() == [*own, f'model.teacher.checkpoint={tmp_path}/a b/seed0']


@pytest.fixture
def started(run, monkeypatch):
    """Start the run with a device; return the environment of the job."""
    monkeypatch.setattr(sys, 'executable', '/bin/sh')
    popen = subprocess.Popen

    def start(device, processes=1, **environment):
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        commands = []
        monkeypatch.setattr(subprocess, 'Popen', lambda command, **kwargs: commands.append(command) or popen(
            ['sh', '-c', 'env; taskset -cp $$ 2>/dev/null'], **kwargs))
        assert joint_runs.start_job([Run(**{**vars(run), 'processes': processes})], device).wait() == 0
        assert commands == [['/bin/sh', '-m', 'mmat.reproduce.job', str(run.work_dir), '--parent', str(os.getpid())]]
        lines = (run.work_dir / 'train.log').read_text().splitlines()
        return dict(line.split('=', 1) for line in lines if '=' in line)

    return start


@pytest.mark.parametrize('visible, gpus, expected', [
    ('', [0, 2], '0,2'),
    ('5,6,7', [0, 2], '5,7'),  # indices among the GPUs that this process may use
    ('GPU-aa,GPU-bb', [1], 'GPU-bb'),
])
def test_a_job_gets_its_gpus(started, visible, gpus, expected):
    assert started(dict(gpus=gpus), CUDA_VISIBLE_DEVICES=visible)['CUDA_VISIBLE_DEVICES'] == expected


@pytest.mark.parametrize('processes, threads', [(1, 1), (2, 1)])
def test_a_job_gets_its_cores(started, processes, threads):
    core = min(os.sched_getaffinity(0))
    environment = started(dict(cores=[core]), processes, OMP_NUM_THREADS='99', CUDA_VISIBLE_DEVICES='')
    assert environment['OMP_NUM_THREADS'] == str(threads) and environment['CUDA_VISIBLE_DEVICES'] == ''
