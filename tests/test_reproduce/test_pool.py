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

from mmat.reproduce import pool
from mmat.reproduce.joint_runs import start
from mmat.reproduce.pool import assign_devices, execute
from mmat.reproduce.run import Run

# A table in a process of its own, as tools/reproduce.py has it, but for the recipe.
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
    """The most trainings that ran side by side."""
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
    # Nothing is left to do.
    assert set(run_table(tmp_path / 'table').values()) == {'done'} and len(events(tmp_path)) == 10


def test_a_failure_holds_up_its_students_only_and_is_tried_again(tmp_path, monkeypatch):
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
    begun = [event[1:3] for event in events(tmp_path) if event[0] == 'begin']
    assert Counter(name for name, _ in begun) == {**dict.fromkeys(expected(), 1), 'middle/seed0': 2}
    assert ['middle/seed0', '1'] in begun  # it went on from its first epoch


def test_blocked_by_a_teacher_of_the_teacher(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path, fail=['teacher/seed0'])
    assert list(run_table(tmp_path / 'table').values()) == ['failed', 'blocked', 'done', 'blocked', 'blocked']


def test_a_run_in_another_process_is_waited_for(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    (tmp_path / 'hold').touch()
    job = start(make_runs(tmp_path / 'table')[:1])
    wait_for(lambda: events(tmp_path))
    seen = []

    def watch(states):
        seen.append(list(states.values()))
        (tmp_path / 'hold').unlink(missing_ok=True)

    states = run_table(tmp_path / 'table', watch)
    assert job.wait() == 0
    assert seen[0][0] == 'running' and set(states.values()) == {'done'}
    assert [event[1] for event in events(tmp_path)].count('teacher/seed0') == 2


def test_a_run_that_another_process_gives_up_is_taken_over(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    (tmp_path / 'hold').touch()
    job = start(make_runs(tmp_path / 'table')[:1])
    wait_for(lambda: events(tmp_path))
    told = []

    def watch(states):
        if not told:
            told.append(list(states.values())[0])
            job.terminate()
            job.wait()
            (tmp_path / 'hold').unlink()

    assert set(run_table(tmp_path / 'table', watch=watch).values()) == {'done'} and told == ['running']
    assert measured(tmp_path / 'table') == pytest.approx(expected())


def test_a_training_that_outlives_its_job_is_waited_for(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    (tmp_path / 'hold').touch()
    killed = []

    def killing(group, device=None):
        job = start(group, device)
        if not killed:
            wait_for(lambda: events(tmp_path))
            job.kill()
            killed.append(job.pid)
        return job

    seen = []

    def watch(states):
        seen.append(list(states.values())[0])
        if len(seen) > 4:  # and it is not taken for failed in the meantime
            (tmp_path / 'hold').unlink(missing_ok=True)

    monkeypatch.setattr(pool, 'start', killing)
    assert set(run_table(tmp_path / 'table', watch).values()) == {'done'} and 'failed' not in seen
    assert killed and measured(tmp_path / 'table') == pytest.approx(expected())
    assert not list(tmp_path.glob('table/*/*/CLASH'))


def test_another_kind_of_training_is_refused_before_anything_is_written(tmp_path):
    Run(tmp_path / 'last/seed1', 'last', 1, 99).prepare()
    runs = make_runs(tmp_path)
    with pytest.raises(ValueError, match="last/seed1' holds another training .epochs: 99 there, 4 here; teacher: None"):
        execute(runs, [{}], lambda states: None)
    assert [file.parts[-3] for file in tmp_path.glob('*/*/*')] == ['last']


def test_what_is_done_must_be_of_the_same_kind_too(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    run_table(tmp_path / 'table')
    with pytest.raises(ValueError, match='epochs: 4 there, 5 here'):
        execute(make_runs(tmp_path / 'table', epochs=5), [{}], lambda states: None)


@pytest.fixture
def start_tool(tmp_path):
    """Starts a table in a process of its own; all are gone in the end."""
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
        # While jobs start, in the middle of a training, and where one ends and others begin.
        if moment == 0:
            wait_for(lambda: any((tmp_path / 'table').glob('*/*/lock')))
        else:
            wait_for(lambda happened=happened: events(tmp_path) != happened)
        time.sleep((0., 0.15, 0.33)[moment])
        (tmp_path / 'hold').touch()  # by itself no training ends now
        for number in sent:
            tool.send_signal(number)
        assert tool.wait() != 0
        wait_for(lambda: not trainings_in(tmp_path))
        (tmp_path / 'hold').unlink()
    assert start_tool().wait() == 0
    assert measured(tmp_path / 'table') == pytest.approx(expected())
    assert not list(tmp_path.glob('table/*/*/CLASH')) and not list(tmp_path.glob('table/*/*/failure.json'))
    assert any(int(event[2]) for event in events(tmp_path))  # some went on from a checkpoint


def test_the_end_of_the_terminal_means_nothing_under_nohup(tmp_path, monkeypatch, start_tool):
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


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {2, 3, 5, 7})
    assert assign_devices(None, None) == [dict(cores=[core]) for core in (2, 3, 5, 7)]
    assert assign_devices(None, None, processes=2) == [dict(cores=[2, 3]), dict(cores=[5, 7])]
    assert assign_devices(1, None) == [dict(cores=[2, 3, 5, 7])]
    assert assign_devices(3, None) == [dict(cores=[2]), dict(cores=[3]), dict(cores=[5])]
    assert assign_devices(5, None)[3:] == [dict(cores=[7]), dict(cores=[2])]


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 5)
    assert assign_devices(None, None) == [dict(gpus=[number]) for number in range(5)]
    assert assign_devices(None, [3, 1]) == [dict(gpus=[3]), dict(gpus=[1])]
    assert assign_devices(None, None, processes=2) == [dict(gpus=[0, 1]), dict(gpus=[2, 3])]
    assert assign_devices(3, [4], 1) == [dict(gpus=[4])] * 3
    assert assign_devices(1, None, processes=2) == [dict(gpus=[0, 1])]


@pytest.mark.parametrize('arguments, count, message', [
    ((0, None), 0, '--jobs must be at least 1, got 0'),
    ((None, None, 4), 2, 'a training needs 4 GPUs, and there are 2; see --gpus-per-run'),
    ((None, [0, 2]), 2, '--gpus 0 2: there is no GPU 2; they are 0 to 1'),
    ((None, [-1]), 2, '--gpus -1: there is no GPU -1; they are 0 to 1'),
    ((None, [1, 1]), 2, '--gpus 1 1: 1 is there twice'),
    ((None, [0]), 0, '--gpus 0: there is no GPU 0; torch sees none'),
])
def test_devices_that_are_not_there(monkeypatch, arguments, count, message):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    with pytest.raises(ValueError) as error:
        assign_devices(*arguments)
    assert str(error.value) == message
