"""Seeds that share their batches: one process, and yet a run each."""
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

from mmat.reproduce import job
from mmat.reproduce.joint_runs import (
    joint_label,
    resumable_together,
    split_by_failure,
    split_into_jobs,
    start,
    training_command,
)
from mmat.reproduce.pool import execute
from mmat.reproduce.run import Run, open_run

EPOCHS = 4
# A table in a process of its own, of seeds that share their batches.
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
    """A teacher of one seed and two configs of two that it teaches, seed by seed as `training_order` has them."""
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


def begun(folder):
    """Folder and first epoch of all that was begun, by process, in order."""
    processes = {}
    for what, name, epoch, process in events(folder):
        if what == 'begin':
            processes.setdefault(process, []).append((name, int(epoch)))
    return [*processes.values()]


# What is trained together

def test_what_is_trained_together(tmp_path):
    teacher, other = (Run(tmp_path / name / 'seed0', name, 0, 1) for name in ('a', 'b'))
    first, second = make_seeds(tmp_path, (0, 3), 'x', teacher)
    of_other, = make_seeds(tmp_path, (4, ), 'x', other)
    elsewhere, = make_seeds(tmp_path, (3, ), 'y', teacher)
    own = Run(tmp_path / 'x' / 'seed5', 'x', 5, 1, teacher=teacher)
    batches, = make_seeds(tmp_path, (6, ), 'x', teacher, batch_seed=1)
    runs = [teacher, first, elsewhere, own, of_other, second, batches]
    assert split_into_jobs(runs) == [[teacher], [first, second], [elsewhere], [own], [of_other], [batches]]
    # As they are read from disk, each with a teacher of its own.
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
    assert training_command(runs) == [*train, '--work-dir', f'{tmp_path}/net', '--seeds', '3', '0', '7', '--batch-seed', '3',
                                '--resume', *options]
    # The last that is left; and what does the same as any of them.
    alone = [*train, '--work-dir', f'{tmp_path}/net/seed7', '--seed', '7', '--batch-seed', '3', '--resume', *options]
    assert training_command(runs[2:]) == runs[2].command() == alone
    assert '--batch-seed' not in runs[2].command('test')


# State on disk

def test_what_is_written_down_is_read_back(tmp_path):
    run, = make_seeds(tmp_path, (5, ), batch_seed=3)
    run.prepare()
    assert run.record['batch_seed'] == 3 and open_run(run.work_dir).batch_seed == 3
    assert run.log == tmp_path / 'net' / 'train.log'


@pytest.mark.parametrize('there, here, told', [
    (None, 0, 'was begun without --share-batches, and cannot go on with it: .* Go on without it, take another --work-'),
    (0, None, 'was begun with --share-batches, and cannot go on without it: .* Go on with it, take another --work-dir'),
    (0, 5, 'has the batches of seed 0, and those of seed 5 are asked for; take another --work-dir, or delete'),
])
@pytest.mark.parametrize('done', [False, True])
def test_a_folder_with_other_batches_is_refused(tmp_path, there, here, told, done):
    make_seeds(tmp_path, batch_seed=there)[1].prepare()
    if done:
        (tmp_path / 'net' / 'seed1' / 'result.json').write_text('{"metrics": {}}')
    with pytest.raises(ValueError, match=f"net/seed1' {told}"):
        execute(make_seeds(tmp_path, batch_seed=here), [{}], lambda states: None)
    assert [path.name for path in (tmp_path / 'net').iterdir()] == ['seed1']  # nothing is begun


def test_results_tell_that_the_batches_were_shared(fake):
    runs = make_seeds(fake, (4, 1, 2), batch_seed=4)
    assert train(runs) == ['done'] * 3
    assert measured(fake) == expected((4, 1, 2), batch_seed=4)
    for run in runs:
        assert run.result['batch_seed'] == 4 and run.result['attempts'] == 1
        attempt, = run.record['attempts']
        assert attempt['seeds'] == [4, 1, 2]
    assert begun(fake) == [[('net/seed4', 0), ('net/seed1', 0), ('net/seed2', 0)]]
    log = runs[0].log.read_text()
    assert log.startswith('$ ') and 'training net/seed4 net/seed1 net/seed2' in log
    assert not list(fake.glob('*/*/train.log'))


def test_without_shared_batches_nothing_tells_of_them(fake):
    run, = make_seeds(fake, (4, ), batch_seed=None)
    assert train([run]) == ['done'] and measured(fake) == {'net/seed4': accuracy_of(weights_of(4, EPOCHS))}
    assert 'batch_seed' not in {**run.record, **run.result} and 'seeds' not in run.record['attempts'][0]


# One process

def test_one_slot_for_each_group_after_its_teacher(fake):
    runs, seen = make_table(fake / 'table'), []
    assert train(runs, lambda states: seen.append(list(states.values()))) == ['done'] * 5
    assert measured(fake / 'table') == expected_table()
    assert begun(fake) == [[('teacher/seed0', 0)], [('one/seed0', 0), ('one/seed1', 0)],
                           [('two/seed0', 0), ('two/seed1', 0)]]
    assert ['done', 'running', 'waiting', 'running', 'waiting'] in seen
    assert max(Counter(each)['running'] for each in seen) == 2
    # Side by side, where there are two.
    happened = len(events(fake))
    assert train(make_table(fake / 'again'), jobs=2) == ['done'] * 5
    order = [(what, name) for what, name, *_ in events(fake)[happened:]]
    assert order.index(('begin', 'two/seed1')) < order.index(('end', 'one/seed0'))
    assert measured(fake / 'again') == measured(fake / 'table')


def test_seeds_that_are_done_are_left_out(fake):
    """Also the one whose batches the others have."""
    runs = make_seeds(fake)
    assert train(runs[:1]) == ['done']
    before = json.loads((runs[0].work_dir / 'result.json').read_text())
    assert train(runs) == ['done'] * 3 and measured(fake) == expected()
    assert begun(fake) == [[('net/seed0', 0)], [('net/seed1', 0), ('net/seed2', 0)]]
    assert runs[0].result == before and runs[1].record['attempts'][0]['seeds'] == [1, 2]
    # A job that somebody else's was faster than leaves them out, too.
    assert start(make_seeds(fake, range(4))).wait() == 0
    assert [run.result['attempts'] for run in runs] == [1] * 3
    assert begun(fake)[2:] == [[('net/seed3', 0)]] and measured(fake) == expected(range(4))


def test_seeds_at_different_epochs_go_on_from_the_one_that_all_have(fake):
    runs = make_seeds(fake)
    assert train(runs[:2]) == ['done'] * 2
    for run, epoch in zip(runs, (3, 2)):  # as if killed then
        (run.work_dir / 'last_checkpoint').write_text(f'epoch_{epoch}.pth')
        (run.work_dir / 'result.json').unlink()
        for each in range(epoch + 1, EPOCHS + 1):
            (run.work_dir / f'epoch_{each}.pth').unlink()
    # Of the new ones a process of their own, for they have nothing in common with those.
    runs = make_seeds(fake, range(4))
    assert train(runs) == ['done'] * 4
    assert begun(fake)[1:] == [[('net/seed0', 2), ('net/seed1', 2)], [('net/seed2', 0), ('net/seed3', 0)]]
    assert measured(fake) == expected(range(4))


@pytest.mark.parametrize('saved, together', [
    ([[], [], []], [0, 1, 2]),
    ([[1], [], [1]], [0, 1, 2]),  # killed while they saved their first
    ([[3, 4], [4, 5], [4]], [0, 1, 2]),
    ([[3, 4], [], [4, 5]], [0, 2]),
    ([[], [3, 4], []], [0, 2]),
    ([[3, 4], [4, 5], [5, 6]], [0, 1]),
])
def test_who_can_go_on_with_whom(tmp_path, saved, together):
    runs = make_seeds(tmp_path)
    for run, epochs in zip(runs, saved):
        run.prepare()
        for epoch in epochs:
            (run.work_dir / f'epoch_{epoch}.pth').touch()
            (run.work_dir / 'last_checkpoint').write_text(f'epoch_{epoch}.pth')
    assert [run.seed for run in resumable_together(runs)] == together


def test_a_failure_is_that_of_all_and_all_are_tried_again(fake, monkeypatch):
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
    assert begun(fake)[1] == [(f'net/seed{seed}', 1) for seed in range(3)]


def test_one_that_cannot_be_measured_is_no_others_failure(fake, monkeypatch):
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

    monkeypatch.setattr(job, '_call', call)
    assert job.carry_out(runs) == 1
    assert [bool(run.result) for run in runs] == [True, False, True]
    assert [bool(run.failure) for run in runs] == [False, True, False]
    assert 'last_checkpoint' in runs[1].failure['log'][-1] and split_by_failure(runs) == [[runs[0], runs[2]], [runs[1]]]


def test_stopped_while_it_measures_it_measures_no_more(fake, monkeypatch):
    runs, measured = make_seeds(fake), []
    for run in runs:
        run.prepare()
    monkeypatch.setattr(job, '_call', lambda *_: 0)
    monkeypatch.setattr(job, 'measure', lambda run, *_: measured.append(run) or 128 + signal.SIGTERM)
    assert job.carry_out(runs) == 128 + signal.SIGTERM
    assert measured == runs[:1] and [run.failure for run in runs] == [None] * 3


# Killed, and side by side with others

@pytest.fixture
def held(fake):
    """A group whose training goes no further than its first epoch."""
    (fake / 'hold').touch()
    runs = make_seeds(fake)
    process = start(runs)
    wait_for(lambda: all((run.work_dir / 'last_checkpoint').exists() for run in runs))
    return runs, process


def test_told_to_stop_it_stops_and_goes_on_later(fake, held):
    runs, process = held
    assert all(run.is_running for run in runs)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not trainings_in(fake) and not any(run.is_running or run.failure for run in runs)
    (fake / 'hold').unlink()
    assert train(runs) == ['done'] * 3 and measured(fake) == expected()
    assert begun(fake)[1] == [(f'net/seed{seed}', 1) for seed in range(3)]


def test_its_training_holds_all_runs_when_the_job_is_killed(fake, held):
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


def test_while_somebody_else_has_one_the_others_wait(fake):
    (fake / 'hold').touch()
    runs = make_seeds(fake)
    process, seen = start(runs[1:2]), []
    wait_for(lambda: events(fake))

    def watch(states):
        seen.append(list(states.values()))
        if len(seen) == 4:
            (fake / 'hold').unlink()

    assert train(runs, watch) == ['done'] * 3 and process.wait() == 0
    assert seen[3] == ['waiting', 'running', 'waiting'] and measured(fake) == expected()
    assert begun(fake) == [[('net/seed1', 0)], [('net/seed0', 0), ('net/seed2', 0)]]


def test_a_job_does_not_begin_where_one_run_is_taken(fake, monkeypatch, held):
    runs, process = held
    others = make_seeds(fake, (3, 1))
    for run in others:
        run.prepare()
    with pytest.raises(RuntimeError, match='net, seed 1 is running in another process'):
        job.carry_out(others)
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
        (fake / 'hold').touch()  # by itself no training ends now
        tool.send_signal(number)
        assert tool.wait() != 0
        wait_for(lambda: not trainings_in(fake))
        (fake / 'hold').unlink()
    # And two at once.
    tools = [subprocess.Popen(command) for _ in range(2)]
    assert [tool.wait() for tool in tools] == [0, 0]
    assert measured(fake / 'table') == expected_table()
    assert not list(fake.glob('table/*/*/CLASH')) and not list(fake.glob('table/*/*/failure.json'))
    assert any(epoch for process in begun(fake) for _, epoch in process)  # some went on from a checkpoint


def test_folders_that_are_no_group(fake):
    runs = [*make_seeds(fake, (0, )), *make_seeds(fake, (0, ), 'other')]
    for run in runs:
        run.prepare()
    done = subprocess.run([sys.executable, '-m', 'mmat.reproduce.job', *(str(run.work_dir) for run in runs)],
                          capture_output=True, text=True)
    assert done.returncode == 2 and 'net, seed 0, other, seed 0 are no training together' in done.stderr


# Wall time

def test_wall_time_is_a_share_of_the_process(fake, monkeypatch):
    """30 s of three, and 50 s of two that a log of the run's own tells: 10 s and 25 s."""
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
    # Of the other, whose training came after.
    runs[1].log.touch()
    os.utime(runs[1].log, (begin + 4000, begin + 4000))
    assert train(runs) == ['done'] * 3
    assert [run.result['wall_time'] for run in runs] in ([35, 0, 35], [36, 1, 36], [36, 0, 36])
