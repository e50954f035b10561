"""Seeds that share batches: trained in one process, with a run each."""
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
from fake_training import accuracy_of, events, measured, trainings_in, wait_for, weights_of

from mmat.errors import ConfigError, UserError
from mmat.reproduce import job
from mmat.reproduce.joint_runs import (
    joint_label,
    resumable_together,
    split_by_failure,
    split_into_jobs,
    start_job,
    training_command,
)
from mmat.reproduce.pool import execute
from mmat.reproduce.run import Run, open_run

EPOCHS = 4
# A table in a separate process, of seeds that share batches.
TOOL = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_joint_runs import make_table
from mmat.reproduce.pool import execute
states = execute(make_table(Path(sys.argv[1])), [dict(cores=[])], lambda states: None, pause=0.03)
sys.exit(any(state != 'done' for state in states.values()))
"""


def make_seeds(folder, seeds=(0, 1, 2), name='net', teacher=None, batch_seed=0):
    return [Run(folder / name / f'seed{seed}', name, seed, EPOCHS, teacher=teacher, batch_seed=batch_seed)
            for seed in seeds]


def make_table(folder):
    """Make a teacher with one seed and two students with two seeds each, in training order."""
    teacher = Run(folder / 'teacher' / 'seed0', 'teacher', 0, EPOCHS)
    one, two = (make_seeds(folder, (0, 1), name, teacher) for name in ('one', 'two'))
    return [teacher, one[0], two[0], one[1], two[1]]


def expected(seeds=(0, 1, 2), name='net', teacher='', batch_seed=0):
    return {f'{name}/seed{seed}': accuracy_of(weights_of(seed, EPOCHS, teacher, batch_seed)) for seed in seeds}


def expected_table():
    teacher = weights_of(0, EPOCHS)
    return {'teacher/seed0': accuracy_of(teacher),
            **expected((0, 1), 'one', teacher), **expected((0, 1), 'two', teacher)}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    return tmp_path


def train(runs, watch=lambda states: None, jobs=1):
    return [*execute(runs, [{}] * jobs, watch, pause=0.03).values()]


def starts(folder):
    """Return folder and first epoch of every start, by process, in order."""
    processes = {}
    for what, name, epoch, process in events(folder):
        if what == 'begin':
            processes.setdefault(process, []).append((name, int(epoch)))
    return [*processes.values()]


# Jobs

def test_which_runs_are_one_job(tmp_path):
    teacher, other = (Run(tmp_path / name / 'seed0', name, 0, 1) for name in ('a', 'b'))
    first, second = make_seeds(tmp_path, (0, 3), 'x', teacher)
    of_other, = make_seeds(tmp_path, (4, ), 'x', other)
    elsewhere, = make_seeds(tmp_path, (3, ), 'y', teacher)
    own = Run(tmp_path / 'x' / 'seed5', 'x', 5, 1, teacher=teacher)
    batches, = make_seeds(tmp_path, (6, ), 'x', teacher, batch_seed=1)
    runs = [teacher, first, elsewhere, own, of_other, second, batches]
    assert split_into_jobs(runs) == [[teacher], [first, second], [elsewhere], [own], [of_other], [batches]]
    # Runs read from disk have separate teacher objects.
    first.prepare()
    second.prepare()
    teacher.prepare()
    assert len(split_into_jobs([open_run(run.work_dir) for run in (first, second)])) == 1
    assert joint_label([first, second]) == 'x, seeds 0, 3' and joint_label([second]) == second.label == 'x, seed 3'


def test_the_command_lines(tmp_path):
    teacher = Run(tmp_path / 'a' / 'seed0', 'a', 0, 1)
    runs = make_seeds(tmp_path, (3, 0, 7), teacher=teacher, batch_seed=3)
    train = [sys.executable, f'{Path(__file__).parents[2]}/tools/train.py', 'net']
    options = ['--cfg-options', f'model.teacher.checkpoint={tmp_path}/a/seed0']
    assert training_command(runs) == [*train, '--work-dir', f'{tmp_path}/net', '--seeds', '3', '0', '7', '--batch-seed',
                                      '3', '--resume', *options]
    # A single run is trained alone, with the same command.
    alone = [*train, '--work-dir', f'{tmp_path}/net/seed7', '--seed', '7', '--batch-seed', '3', '--resume', *options]
    assert training_command(runs[2:]) == runs[2].command() == alone
    assert '--batch-seed' not in runs[2].command('test')


# State on disk

def test_the_batch_seed_is_read_back(tmp_path):
    run, = make_seeds(tmp_path, (5, ), batch_seed=3)
    run.prepare()
    assert run.record['batch_seed'] == 3 and open_run(run.work_dir).batch_seed == 3
    assert run.log == tmp_path / 'net' / 'train.log'


@pytest.mark.parametrize('recorded, planned', [(None, 0), (0, None), (0, 5)])
@pytest.mark.parametrize('done', [False, True])
def test_a_folder_with_other_batches_is_refused(tmp_path, recorded, planned, done):
    make_seeds(tmp_path, batch_seed=recorded)[1].prepare()
    if done:
        (tmp_path / 'net' / 'seed1' / 'result.json').write_text('{"metrics": {}}')
    with pytest.raises(ConfigError, match=r"net/seed1'.*--work-dir") as error:
        execute(make_seeds(tmp_path, batch_seed=planned), [{}], lambda states: None)
    if None in (recorded, planned):
        # The option to continue with is named twice: how the run was started, and how to go on.
        started = 'without' if recorded is None else 'with'
        assert str(error.value).count(f'{started} --share-batches') == 2
    else:
        assert 'seed 0' in str(error.value) and '5' in str(error.value)
    assert [path.name for path in (tmp_path / 'net').iterdir()] == ['seed1']  # nothing is started


def test_results_record_that_batches_were_shared(fake):
    runs = make_seeds(fake, (4, 1, 2), batch_seed=4)
    assert train(runs) == ['done'] * 3
    assert measured(fake) == expected((4, 1, 2), batch_seed=4)
    for run in runs:
        assert run.result['batch_seed'] == 4 and run.result['attempts'] == 1
        attempt, = run.record['attempts']
        assert attempt['seeds'] == [4, 1, 2]
    assert starts(fake) == [[('net/seed4', 0), ('net/seed1', 0), ('net/seed2', 0)]]
    log = runs[0].log.read_text()
    assert log.startswith('$ ') and 'training net/seed4 net/seed1 net/seed2' in log
    assert not list(fake.glob('*/*/train.log'))


def test_without_shared_batches_nothing_is_recorded(fake):
    run, = make_seeds(fake, (4, ), batch_seed=None)
    assert train([run]) == ['done'] and measured(fake) == {'net/seed4': accuracy_of(weights_of(4, EPOCHS))}
    assert 'batch_seed' not in {**run.record, **run.result} and 'seeds' not in run.record['attempts'][0]


# One process

def test_one_device_for_each_job_after_its_teacher(fake):
    runs, seen = make_table(fake / 'table'), []
    assert train(runs, lambda states: seen.append(list(states.values()))) == ['done'] * 5
    assert measured(fake / 'table') == expected_table()
    assert starts(fake) == [[('teacher/seed0', 0)], [('one/seed0', 0), ('one/seed1', 0)],
                           [('two/seed0', 0), ('two/seed1', 0)]]
    assert ['done', 'running', 'waiting', 'running', 'waiting'] in seen
    assert max(Counter(each)['running'] for each in seen) == 2
    # Side by side on two devices.
    happened = len(events(fake))
    assert train(make_table(fake / 'again'), jobs=2) == ['done'] * 5
    order = [(what, name) for what, name, *_ in events(fake)[happened:]]
    assert order.index(('begin', 'two/seed1')) < order.index(('end', 'one/seed0'))
    assert measured(fake / 'again') == measured(fake / 'table')


def test_finished_seeds_are_skipped(fake):
    """Also the seed whose batches the others use."""
    runs = make_seeds(fake)
    assert train(runs[:1]) == ['done']
    before = json.loads((runs[0].work_dir / 'result.json').read_text())
    assert train(runs) == ['done'] * 3 and measured(fake) == expected()
    assert starts(fake) == [[('net/seed0', 0)], [('net/seed1', 0), ('net/seed2', 0)]]
    assert runs[0].result == before and runs[1].record['attempts'][0]['seeds'] == [1, 2]
    # A job also skips runs that another one finished in the meantime.
    assert start_job(make_seeds(fake, range(4))).wait() == 0
    assert [run.result['attempts'] for run in runs] == [1] * 3
    assert starts(fake)[2:] == [[('net/seed3', 0)]] and measured(fake) == expected(range(4))


def test_seeds_at_different_epochs_resume_from_their_last_common_epoch(fake):
    runs = make_seeds(fake)
    assert train(runs[:2]) == ['done'] * 2
    for run, epoch in zip(runs, (3, 2)):  # as if killed then
        (run.work_dir / 'last_checkpoint').write_text(f'epoch_{epoch}.pth')
        (run.work_dir / 'result.json').unlink()
        for each in range(epoch + 1, EPOCHS + 1):
            (run.work_dir / f'epoch_{each}.pth').unlink()
    # New seeds have no common checkpoint with them, so they get a separate job.
    runs = make_seeds(fake, range(4))
    assert train(runs) == ['done'] * 4
    assert starts(fake)[1:] == [[('net/seed0', 2), ('net/seed1', 2)], [('net/seed2', 0), ('net/seed3', 0)]]
    assert measured(fake) == expected(range(4))


@pytest.mark.parametrize('saved, together', [
    ([[], [], []], [0, 1, 2]),
    ([[1], [], [1]], [0, 1, 2]),  # killed while they saved their first
    ([[3, 4], [4, 5], [4]], [0, 1, 2]),
    ([[3, 4], [], [4, 5]], [0, 2]),
    ([[], [3, 4], []], [0, 2]),
    ([[3, 4], [4, 5], [5, 6]], [0, 1]),
])
def test_which_runs_can_resume_together(tmp_path, saved, together):
    runs = make_seeds(tmp_path)
    for run, epochs in zip(runs, saved):
        run.prepare()
        for epoch in epochs:
            (run.work_dir / f'epoch_{epoch}.pth').touch()
            (run.work_dir / 'last_checkpoint').write_text(f'epoch_{epoch}.pth')
    assert [run.seed for run in resumable_together(runs)] == together


def test_a_failure_of_one_run_fails_the_job_and_all_are_retried(fake, monkeypatch):
    fake_training.install(monkeypatch, fake, fail=['net/seed1'])
    runs = make_seeds(fake)
    student = Run(fake / 'student' / 'seed0', 'student', 0, EPOCHS, teacher=runs[0])
    assert train([*runs, student]) == ['failed', 'failed', 'failed', 'blocked'] and measured(fake) == {}
    for run in runs:
        assert run.failure['status'] == 3 and not run.is_running
        assert run.failure['log'][-2:] == ['training net/seed0 net/seed1 net/seed2', 'the cause']
    assert split_by_failure(runs) == [runs]
    fake_training.install(monkeypatch, fake)
    assert train([*runs, student]) == ['done'] * 4
    assert [run.failure for run in runs] == [None] * 3 and runs[2].result['attempts'] == 2
    assert {name: value for name, value in measured(fake).items() if name.startswith('net')} == expected()
    assert starts(fake)[1] == [(f'net/seed{seed}', 1) for seed in range(3)]


def test_a_run_that_cannot_be_tested_does_not_fail_the_others(fake, monkeypatch):
    runs = make_seeds(fake)
    for run in runs:
        run.prepare()
    monkeypatch.setattr(job, 'describe_code', lambda: dict(commit='now', versions={}))

    def call(log, command, *_):
        for run in (runs[0], runs[2]) if '--seeds' in command else ():
            (run.work_dir / 'epoch_4.pth').touch()
            (run.work_dir / 'last_checkpoint').write_text('epoch_4.pth')
        (Path(command[command.index('--out') + 1]) if '--out' in command else log).write_text('{}')
        return 0

    monkeypatch.setattr(job, '_run_command', call)
    assert job.run_job(runs) == 1
    assert [bool(run.result) for run in runs] == [True, False, True]
    assert [bool(run.failure) for run in runs] == [False, True, False]
    assert 'last_checkpoint' in runs[1].failure['log'][-1] and split_by_failure(runs) == [[runs[0], runs[2]], [runs[1]]]


def test_a_stop_while_writing_results_ends_the_job(fake, monkeypatch):
    runs, measured = make_seeds(fake), []
    for run in runs:
        run.prepare()
    monkeypatch.setattr(job, '_run_command', lambda *_: 0)
    monkeypatch.setattr(job, 'write_result', lambda run, *_: measured.append(run) or 128 + signal.SIGTERM)
    assert job.run_job(runs) == 128 + signal.SIGTERM
    assert measured == runs[:1] and [run.failure for run in runs] == [None] * 3


# Killed, and side by side with others

@pytest.fixture
def held(fake):
    """Start a job whose training pauses after its first epoch."""
    (fake / 'hold').touch()
    runs = make_seeds(fake)
    process = start_job(runs)
    wait_for(lambda: all((run.work_dir / 'last_checkpoint').exists() for run in runs))
    return runs, process


def test_a_stopped_job_resumes_later(fake, held):
    runs, process = held
    assert all(run.is_running for run in runs)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not trainings_in(fake) and not any(run.is_running or run.failure for run in runs)
    (fake / 'hold').unlink()
    assert train(runs) == ['done'] * 3 and measured(fake) == expected()
    assert starts(fake)[1] == [(f'net/seed{seed}', 1) for seed in range(3)]


def test_the_training_keeps_all_locks_when_the_job_is_killed(fake, held):
    runs, process = held
    process.kill()
    process.wait()
    assert all(run.is_running for run in runs)
    seen = []

    def watch(states):
        seen.append(set(states.values()))
        if len(seen) == 4:
            training, = trainings_in(fake)
            os.kill(training, signal.SIGKILL)
            (fake / 'hold').unlink()

    assert train(runs, watch) == ['done'] * 3 and seen[3] == {'running'}
    assert measured(fake) == expected() and not list(fake.glob('*/*/CLASH'))


def test_while_another_process_trains_a_run_the_others_wait(fake):
    (fake / 'hold').touch()
    runs = make_seeds(fake)
    process, seen = start_job(runs[1:2]), []
    wait_for(lambda: events(fake))

    def watch(states):
        seen.append(list(states.values()))
        if len(seen) == 4:
            (fake / 'hold').unlink()

    assert train(runs, watch) == ['done'] * 3 and process.wait() == 0
    assert seen[3] == ['waiting', 'running', 'waiting'] and measured(fake) == expected()
    assert starts(fake) == [[('net/seed1', 0)], [('net/seed0', 0), ('net/seed2', 0)]]


def test_a_job_does_not_start_if_a_run_is_locked(fake, monkeypatch, held):
    runs, process = held
    others = make_seeds(fake, (3, 1))
    for run in others:
        run.prepare()
    with pytest.raises(UserError, match='net, seed 1 '):
        job.run_job(others)
    assert not others[0].is_running and others[0].record['attempts'] == []
    process.terminate()
    process.wait()


def test_killed_at_any_moment_it_ends_with_the_same_results(fake, monkeypatch):
    fake_training.install(monkeypatch, fake, delay=0.1)
    (fake / 'tool.py').write_text(TOOL.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, str(fake / 'tool.py'), str(fake / 'table')]
    for moment, number in enumerate((signal.SIGKILL, signal.SIGTERM)):
        happened = events(fake)
        tool = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for(lambda happened=happened: events(fake) != happened)
        time.sleep((0.15, 0.33)[moment])
        (fake / 'hold').touch()  # no training can finish now
        tool.send_signal(number)
        assert tool.wait() != 0
        wait_for(lambda: not trainings_in(fake))
        (fake / 'hold').unlink()
    # And two at once.
    tools = [subprocess.Popen(command) for _ in range(2)]
    assert [tool.wait() for tool in tools] == [0, 0]
    assert measured(fake / 'table') == expected_table()
    assert not list(fake.glob('table/*/*/CLASH')) and not list(fake.glob('table/*/*/failure.json'))
    assert any(epoch for process in starts(fake) for _, epoch in process)  # some resumed from a checkpoint


def test_a_job_refuses_runs_that_do_not_share_batches(fake):
    runs = [*make_seeds(fake, (0, )), *make_seeds(fake, (0, ), 'other')]
    for run in runs:
        run.prepare()
    done = subprocess.run([sys.executable, '-m', 'mmat.reproduce.job', *(str(run.work_dir) for run in runs)],
                          capture_output=True, text=True)
    assert done.returncode == 2
    for label in ('net, seed 0', 'other, seed 0'):
        assert label in ' '.join(done.stderr.split())


# Wall time

def test_wall_time_is_a_share_of_the_process(fake, monkeypatch):
    """30 s with three runs, and 50 s with two, by the time of their logs: 10 s and 25 s for each."""
    runs = make_seeds(fake)
    for run in runs:
        run.prepare()
    begin = time.time() - 5000
    attempts = [dict(started=begin, ended=begin + 30, host='h', commit='c', seeds=[0, 1, 2]),
                dict(started=begin + 1000, host='h', commit='c', seeds=[0, 2])]
    for run in (runs[0], runs[2]):
        (run.work_dir / 'run.json').write_text(json.dumps({**run.record, 'attempts': attempts}))
        own = run.work_dir / 'before' / 'vis_data' / 'scalars.json'
        own.parent.mkdir(parents=True)
        own.touch()
        os.utime(own, (begin + 1050, begin + 1050))
    # Not counted: the shared log was written by the other run later.
    runs[1].log.touch()
    os.utime(runs[1].log, (begin + 4000, begin + 4000))
    assert train(runs) == ['done'] * 3
    assert [run.result['wall_time'] for run in runs] in ([35, 0, 35], [36, 1, 36], [36, 0, 36])
