import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fake_training
import pytest
import torch
from fake_training import events, expected, make_runs, measured, trainings_in, wait_for

from mmat.errors import ConfigError
from mmat.reproduce import pool
from mmat.reproduce.joint_runs import start_job
from mmat.reproduce.pool import assign_devices, execute
from mmat.reproduce.run import Run

# A table in a separate process, as tools/reproduce.py runs it, but without a recipe.
TOOL = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from fake_training import make_runs
from mmat.reproduce.pool import execute
states = execute(make_runs(Path(sys.argv[1])), [dict(cores=[]), dict(cores=[])], lambda states: None, pause=0.03)
assert 'torch' not in sys.modules, 'it takes seconds to import, and nothing here needs it'
sys.exit(any(state != 'done' for state in states.values()))
"""


def run_table(folder, watch=lambda states: None, jobs=2):
    states = execute(make_runs(folder), [{}] * jobs, watch, pause=0.03)
    return {'/'.join(run.work_dir.parts[-2:]): state for run, state in states.items()}


def at_once(happened):
    """Return the largest number of simultaneous trainings."""
    return max(itertools.accumulate(1 if event[0] == 'begin' else -1 for event in happened))


def test_side_by_side_and_after_the_teacher(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    seen = []
    states = run_table(tmp_path / 'table', watch=lambda states: seen.append(list(states.values())))
    assert set(states.values()) == {'done'} and measured(tmp_path / 'table') == pytest.approx(expected())
    assert max(Counter(each)['running'] for each in seen) == 2 and seen[-1] == ['done'] * 5
    happened = [tuple(event[:2]) for event in events(tmp_path)]
    assert sorted(happened) == sorted(itertools.product(['begin', 'end'], expected()))
    for teacher, student in [('teacher/seed0', 'middle/seed0'), ('middle/seed0', 'last/seed0'),
                             ('middle/seed0', 'last/seed1')]:
        assert happened.index(('end', teacher)) < happened.index(('begin', student))
    assert at_once(happened) == 2
    # Nothing is left to train.
    assert set(run_table(tmp_path / 'table').values()) == {'done'} and len(events(tmp_path)) == 10


def test_a_failure_blocks_only_its_students_and_is_retried(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path, fail=['middle/seed0'])
    states = run_table(tmp_path / 'table')
    assert states == {'teacher/seed0': 'done', 'middle/seed0': 'failed', 'alone/seed0': 'done',
                      'last/seed0': 'blocked', 'last/seed1': 'blocked'}
    failure = json.loads((tmp_path / 'table/middle/seed0/failure.json').read_text())
    assert failure['status'] == 3 and failure['log'][-2:] == ['training middle/seed0', 'the cause']
    fake_training.install(monkeypatch, tmp_path)
    before = len(events(tmp_path))
    assert set(run_table(tmp_path / 'table', jobs=1).values()) == {'done'}
    assert measured(tmp_path / 'table') == pytest.approx(expected()) and at_once(events(tmp_path)[before:]) == 1
    assert not (tmp_path / 'table/middle/seed0/failure.json').exists()
    started = [event[1:3] for event in events(tmp_path) if event[0] == 'begin']
    assert Counter(name for name, _ in started) == {**dict.fromkeys(expected(), 1), 'middle/seed0': 2}
    assert ['middle/seed0', '1'] in started  # resumed after its first epoch


def test_blocked_by_a_teacher_of_the_teacher(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path, fail=['teacher/seed0'])
    assert list(run_table(tmp_path / 'table').values()) == ['failed', 'blocked', 'done', 'blocked', 'blocked']


def test_a_run_of_another_process_is_waited_for(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    (tmp_path / 'hold').touch()
    job = start_job(make_runs(tmp_path / 'table')[:1])
    wait_for(lambda: events(tmp_path))
    seen = []

    def watch(states):
        seen.append(list(states.values()))
        (tmp_path / 'hold').unlink(missing_ok=True)

    states = run_table(tmp_path / 'table', watch)
    assert job.wait() == 0
    assert seen[0][0] == 'running' and set(states.values()) == {'done'}
    assert [event[1] for event in events(tmp_path)].count('teacher/seed0') == 2


def test_a_run_that_another_process_abandons_is_trained(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    (tmp_path / 'hold').touch()
    job = start_job(make_runs(tmp_path / 'table')[:1])
    wait_for(lambda: events(tmp_path))
    seen = []

    def watch(states):
        if not seen:
            seen.append(list(states.values())[0])
            job.terminate()
            job.wait()
            (tmp_path / 'hold').unlink()

    assert set(run_table(tmp_path / 'table', watch=watch).values()) == {'done'} and seen == ['running']
    assert measured(tmp_path / 'table') == pytest.approx(expected())


def test_a_training_that_outlives_its_job_is_waited_for(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    (tmp_path / 'hold').touch()
    killed = []

    def killing(runs, device=None):
        job = start_job(runs, device)
        if not killed:
            wait_for(lambda: events(tmp_path))
            job.kill()
            killed.append(job.pid)
        return job

    seen = []

    def watch(states):
        seen.append(list(states.values())[0])
        if len(seen) > 4:  # meanwhile it does not count as failed
            (tmp_path / 'hold').unlink(missing_ok=True)

    monkeypatch.setattr(pool, 'start_job', killing)
    assert set(run_table(tmp_path / 'table', watch).values()) == {'done'} and 'failed' not in seen
    assert killed and measured(tmp_path / 'table') == pytest.approx(expected())
    assert not list(tmp_path.glob('table/*/*/CLASH'))


def test_other_settings_are_refused_before_anything_is_written(tmp_path):
    Run(tmp_path / 'last/seed1', 'last', 1, 99).prepare()
    runs = make_runs(tmp_path)
    with pytest.raises(ConfigError, match=r"last/seed1'.*epochs .*\b99\b.*\b4\b.*teacher .*None.*--work-dir"):
        execute(runs, [{}], lambda states: None)
    assert [file.parts[-3] for file in tmp_path.glob('*/*/*')] == ['last']


def test_finished_runs_must_have_the_same_settings_too(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    run_table(tmp_path / 'table')
    with pytest.raises(ConfigError, match=r'epochs .*\b4\b.*\b5\b'):
        execute(make_runs(tmp_path / 'table', epochs=5), [{}], lambda states: None)


@pytest.fixture
def start_tool(tmp_path):
    """Start a table in a separate process, which is killed in the end."""
    script, started = tmp_path / 'tool.py', []
    script.write_text(TOOL.format(tests=str(Path(__file__).parent)))

    def start(**kwargs):
        started.append(subprocess.Popen([sys.executable, str(script), str(tmp_path / 'table')],
                                        stderr=subprocess.DEVNULL, **kwargs))
        return started[-1]

    yield start
    for tool in started:
        tool.kill()
        tool.wait()


@pytest.mark.parametrize('numbers', [
    [[signal.SIGKILL]] * 3,
    [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGINT]],
], ids=['killed', 'stopped'])
def test_killed_at_any_moment_it_ends_with_the_same_results(tmp_path, monkeypatch, start_tool, numbers):
    fake_training.install(monkeypatch, tmp_path, delay=0.1)
    for moment, sent in enumerate(numbers):
        happened = events(tmp_path)
        tool = start_tool()
        # When jobs start, in the middle of a training, and when one ends and others start.
        if moment == 0:
            wait_for(lambda: any((tmp_path / 'table').glob('*/*/lock')))
        else:
            wait_for(lambda happened=happened: events(tmp_path) != happened)
        time.sleep((0., 0.15, 0.33)[moment])
        (tmp_path / 'hold').touch()  # no training can finish now
        for number in sent:
            tool.send_signal(number)
        assert tool.wait() != 0
        wait_for(lambda: not trainings_in(tmp_path))
        (tmp_path / 'hold').unlink()
    assert start_tool().wait() == 0
    assert measured(tmp_path / 'table') == pytest.approx(expected())
    assert not list(tmp_path.glob('table/*/*/CLASH')) and not list(tmp_path.glob('table/*/*/failure.json'))
    assert any(int(event[2]) for event in events(tmp_path))  # some resumed from a checkpoint


def test_sighup_is_ignored_under_nohup(tmp_path, monkeypatch, start_tool):
    fake_training.install(monkeypatch, tmp_path)
    tool = start_tool(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for(lambda: events(tmp_path))
    tool.send_signal(signal.SIGHUP)
    assert tool.wait() == 0


def test_two_calls_at_once_share_the_work(tmp_path, monkeypatch, start_tool):
    fake_training.install(monkeypatch, tmp_path)
    tools = [start_tool(), start_tool()]
    assert [tool.wait() for tool in tools] == [0, 0]
    assert measured(tmp_path / 'table') == pytest.approx(expected())
    assert Counter(event[1] for event in events(tmp_path)) == dict.fromkeys(expected(), 2)


def test_cores_are_divided(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {2, 3, 5, 7})
    assert assign_devices(None, None) == [dict(cores=[core]) for core in (2, 3, 5, 7)]
    assert assign_devices(None, None, processes=2) == [dict(cores=[2, 3]), dict(cores=[5, 7])]
    assert assign_devices(1, None) == [dict(cores=[2, 3, 5, 7])]
    assert assign_devices(3, None) == [dict(cores=[2]), dict(cores=[3]), dict(cores=[5])]
    assert assign_devices(5, None)[3:] == [dict(cores=[7]), dict(cores=[2])]


def test_gpus_are_divided(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 5)
    assert assign_devices(None, None) == [dict(gpus=[number]) for number in range(5)]
    assert assign_devices(None, [3, 1]) == [dict(gpus=[3]), dict(gpus=[1])]
    assert assign_devices(None, None, processes=2) == [dict(gpus=[0, 1]), dict(gpus=[2, 3])]
    assert assign_devices(3, [4], 1) == [dict(gpus=[4])] * 3
    assert assign_devices(1, None, processes=2) == [dict(gpus=[0, 1])]


@pytest.mark.parametrize('arguments, count, message', [
    ((0, None), 0, r'--jobs .*\b0\b'),
    ((None, None, 4), 2, r'\b4 GPUs.*\b2\b.*--gpus-per-run'),
    ((None, [0, 2]), 2, r'--gpus.*GPU 2\b.*0 to 1'),
    ((None, [-1]), 2, r'--gpus.*GPU -1\b.*0 to 1'),
    ((None, [1, 1]), 2, r'--gpus.*GPU 1\b.*once'),
    ((None, [0]), 0, r'--gpus.*GPU 0\b'),
])
def test_devices_that_do_not_exist(monkeypatch, arguments, count, message):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    with pytest.raises(ConfigError, match=message):
        assign_devices(*arguments)
