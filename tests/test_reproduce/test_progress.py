import io
import json
import os
import re
import shutil
import time

import pytest
from rich.console import Console

from mmat.reproduce.progress import LiveProgress, PlainProgress, clock, failures, show_progress
from mmat.reproduce.run import Run
from mmat.reproduce.run_log import RunLog

START = 1_700_000_000


@pytest.fixture(autouse=True)
def now(monkeypatch):
    """The time of day and since then; `now(seconds)` lets them pass."""
    passed = [0.]
    monkeypatch.setattr(time, 'time', lambda: START + passed[0])
    monkeypatch.setattr(time, 'monotonic', lambda: 50. + passed[0])

    def go_on(seconds):
        passed[0] += seconds

    return go_on


@pytest.fixture
def make_run(tmp_path):
    def make_run(name='net', seed=0, epochs=10, teacher=None, batch_seed=None):
        run = Run(tmp_path / name / f'seed{seed}', name, seed, epochs, teacher=teacher, batch_seed=batch_seed)
        run.work_dir.mkdir(parents=True)
        return run

    return make_run


def begin(run, seconds=0.):
    """Note that it was begun then."""
    record = run.record
    record.setdefault('attempts', []).append(dict(started=START + seconds))
    (run.work_dir / 'run.json').write_text(json.dumps(record))


def log(run, text, seconds=0., name='1'):
    """Write to its log, at that time."""
    file = run.work_dir / name / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, 'a') as lines:
        lines.write(text)
    os.utime(file, (START + seconds, START + seconds))


def train(epoch, iteration):
    return json.dumps(dict(lr=0.1, loss=1., epoch=epoch, iter=iteration, step=iteration)) + '\n'


def validate(epoch, accuracy):
    return json.dumps({'accuracy/top1': accuracy, 'time': 0.1, 'step': epoch}) + '\n'


def finish(run, accuracy, wall_time=100):
    (run.work_dir / 'result.json').write_text(json.dumps(dict(
        metrics={'accuracy/top1': accuracy}, wall_time=wall_time)))


def fail(run, status=1, *lines):
    (run.work_dir / 'failure.json').write_text(json.dumps(dict(status=status, log=lines)))


# What logs say

def test_a_log_is_followed(make_run):
    run = make_run()
    follower = RunLog(run)
    follower.read()
    assert follower.epoch == 0 and follower.accuracy is None and follower.pace is None and follower.left(None) is None
    begin(run)
    log(run, train(1, 100), 10)
    follower.read()
    assert follower.epoch == 0  # nobody knows how long an epoch is
    log(run, train(1, 400) + validate(1, 50.), 40)
    follower.read()
    assert (follower.epoch, follower.validated, follower.accuracy, follower.pace) == (1, 1, 50., 40.)
    log(run, train(2, 500), 50)
    follower.read()
    assert follower.epoch == 1.25 and follower.pace == 40.
    log(run, train(2, 800) + validate(2, 60.)[:-5], 80)
    follower.read()
    assert follower.epoch == 2 and follower.accuracy == 50.  # half a line is none
    log(run, validate(2, 60.)[-5:], 81)
    follower.read()
    assert follower.accuracy == 60. and follower.validated == 2
    assert follower.resumed is None


def test_epochs_without_validations(make_run):
    run = make_run()
    begin(run)
    follower = RunLog(run)
    for epoch in (1, 2, 3):
        log(run, train(epoch, 5 * epoch), 2. * epoch)
    follower.read()
    assert follower.epoch == 3 and follower.pace == 2.


def test_only_what_is_new_is_read(make_run, monkeypatch):
    run = make_run()
    log(run, 'x' * 1000 + '\n' + validate(1, 50.))
    follower = RunLog(run)
    follower.read()
    taken = []
    monkeypatch.setattr(follower, '_take', taken.append)
    follower.read()
    log(run, validate(2, 60.))
    follower.read()
    assert taken == [validate(2, 60.).encode()]


def test_a_resumed_run_goes_on_in_another_folder(make_run, now):
    run = make_run()
    begin(run)
    log(run, train(1, 400) + validate(1, 50.) + train(2, 800) + validate(2, 60.) + train(3, 900) + '{"lo', 100)
    begin(run, 1000)
    log(run, train(3, 1200) + validate(3, 70.), 1030, name='2')
    now(1030)
    follower = RunLog(run)
    follower.read()
    assert (follower.epoch, follower.accuracy, follower.resumed) == (3, 70., 2)
    assert follower.pace == 30.  # of the new beginning
    assert follower.left(follower.pace) == 210.
    now(10)
    assert follower.left(follower.pace) == 200.
    now(1000)
    assert follower.left(follower.pace) == 180.  # of more than the epoch that goes on, nobody knows


def test_a_folder_that_is_deleted(make_run):
    run = make_run()
    log(run, validate(1, 50.))
    follower = RunLog(run)
    follower.read()
    shutil.rmtree(run.work_dir)
    follower.read()
    assert follower.accuracy == 50.


# Time left

def test_time_left_of_all_by_hand(make_run, now):
    """Two at a time, with 60 and 100 s left; then a student of the latter, 200 s, and one that waits, 50 s."""
    first, second = make_run('a'), make_run('b')
    student, other, done = make_run('b', 1, teacher=second), make_run('a', 1, epochs=5), make_run('a', 2)
    for run, pace, epoch in ((first, 10., 4), (second, 20., 5)):
        begin(run)
        log(run, train(1, 1) + train(epoch, epoch) + validate(epoch, 50.), pace * epoch)
    now(40)
    finish(done, 90., wall_time=100)
    progress = PlainProgress('T', 2, write=lambda line: None)
    states = {first: 'running', second: 'running', student: 'waiting', other: 'waiting', done: 'done'}
    progress.look(states)
    assert progress.paces() == {'a': 10., 'b': 20.}
    assert progress.left(first) == 60. and progress.left(second) == 100.
    # The student takes the place that is free first, at 60 s, and waits there for its teacher, from 100 to 300 s; the
    # other takes the teacher's, from 100 to 150 s.
    assert progress.left_of_all() == 300.
    states.update({second: 'done', student: 'done'})
    finish(second, 1.)
    finish(student, 1.)
    progress.look(states)
    assert progress.left_of_all() == 60.
    progress.look({run: 'done' for run in states} | {first: 'failed'})
    assert progress.left_of_all() == 0.


def test_time_left_of_runs_that_are_trained_together_by_hand(make_run, now):
    """One process with 60 s left for two seeds; then two more of that config in one, at 5 s an epoch each; a student
    of one of the first waits for the place, too."""
    first, second = (make_run('a', seed, batch_seed=0) for seed in (0, 1))
    later = [make_run('a', seed, batch_seed=1) for seed in (2, 3)]
    student, done = make_run('b', 0, epochs=5, teacher=second), make_run('b', 1, epochs=5)
    for run in (first, second):
        begin(run)
        log(run, train(1, 1) + train(4, 4) + validate(4, 50.), 40)
    now(40)
    finish(done, 90., wall_time=20)
    progress = PlainProgress('T', 1, write=lambda line: None)
    states = {first: 'running', second: 'running', **dict.fromkeys(later, 'waiting'), student: 'waiting', done: 'done'}
    progress.look(states)
    assert progress.paces() == {'a': 5., 'b': 4.}
    assert progress.left(first) == progress.left(second) == 60.
    # 60 s, then 2 x 10 x 5 s, then 5 x 4 s.
    assert progress.left_of_all() == 60 + 100 + 20
    progress.jobs = 2
    # The two begin at once and end at 100 s; the student begins at 60 s, after its teacher.
    assert progress.left_of_all() == 100.
    # The last that runs of its group takes as long as it does.
    states[first] = 'done'
    finish(first, 90., wall_time=50)
    progress.look({**states, **dict.fromkeys(later, 'done'), student: 'done'})
    assert progress.left_of_all() == 60.


def test_a_group_that_just_began_takes_all_its_shares(make_run):
    done, *running = (make_run(seed=seed, batch_seed=0) for seed in range(3))
    finish(done, 90., wall_time=100)
    progress = PlainProgress('T', 1, write=lambda line: None)
    progress.look({done: 'done', **dict.fromkeys(running, 'running')})
    assert progress.left(running[1]) == progress.left_of_all() == 200.


def test_seeds_that_fail_together_are_one_failure(make_run, tmp_path):
    runs = [make_run(seed=seed, batch_seed=0) for seed in range(3)]
    student = make_run('student', teacher=runs[2])
    for run in runs[1:]:
        fail(run, 3, 'one', 'the cause')
    states = {runs[0]: 'done', runs[1]: 'failed', runs[2]: 'failed', student: 'blocked'}
    assert failures(states) == (
        f'net, seeds 1, 2 failed: exit status 3. The end of {tmp_path}/net/train.log:\n    one\n    the cause\n'
        'It was to teach, and so were not trained: student, seed 0\n\n'
        'The same command starts what failed again, each from its last checkpoint.')


def test_nothing_is_known_at_the_beginning(make_run):
    progress = PlainProgress('T', 1, write=lambda line: None)
    progress.look({make_run(): 'waiting'})
    assert progress.left_of_all() is None


def test_a_run_that_just_began_takes_as_long_as_others_of_its_config(make_run):
    done, running, unlike = make_run(seed=0), make_run(seed=1), make_run('unlike')
    finish(done, 90., wall_time=100)
    progress = PlainProgress('T', 2, write=lambda line: None)
    progress.look({done: 'done', running: 'running', unlike: 'running'})
    assert progress.left(running) == 100. and progress.left(unlike) is None and progress.left_of_all() == 100.


def test_runs_of_which_nothing_is_known_are_as_long_as_the_others(make_run):
    short, long, unknown = make_run('a', epochs=1), make_run('b', epochs=100), make_run('c', epochs=50)
    finish(short, 90., wall_time=40)
    finish(long, 90., wall_time=60)
    progress = PlainProgress('T', 1, write=lambda line: None)
    progress.look({short: 'done', long: 'done', unknown: 'waiting'})
    assert progress.left_of_all() == 50.


@pytest.mark.parametrize('seconds, text', [(0, '0:00:00'), (59.9, '0:00:59'), (3661, '1:01:01'), (360000, '100:00:00')])
def test_clock(seconds, text):
    assert clock(seconds) == text


# Lines

def test_a_line_for_each_event(make_run, now):
    teacher, before = make_run('teacher'), make_run('before')
    student = make_run('student', teacher=teacher)
    grandchild, other = make_run('grandchild', teacher=student), make_run('other')
    finish(before, 91.5)
    lines = []
    plain = PlainProgress('A table', 1, write=lines.append)
    states = {before: 'done', teacher: 'waiting', student: 'waiting', grandchild: 'waiting', other: 'waiting'}

    def told(**changes):
        lines.clear()
        states.update({run: changes[run.name] for run in states if run.name in changes})
        plain(states)
        return list(lines)

    assert told() == ['[0:00:00] A table: 5 trainings, 1 of them done before   [1/5, about 0:06:40 left]']
    assert told() == []
    now(5)
    begin(teacher, 5)
    assert told(teacher='running') == ['[0:00:05] running  teacher, seed 0   [1/5, about 0:06:40 left]']
    log(teacher, train(1, 10) + validate(1, 50.25), 25)
    now(20)
    assert told() == []  # not so soon
    now(10)
    assert told() == [
        '[0:00:35] running  teacher, seed 0: epoch 1/10, error 49.75 %, 0:02:50 left   [1/5, about 0:10:20 left]']
    now(40)
    assert told() == []  # nothing new
    finish(teacher, 88., wall_time=100)
    assert told(teacher='done', student='running') == [
        '[0:01:15] done     teacher, seed 0: error 12.00 %   [2/5, about 0:05:00 left]',
        '[0:01:15] running  student, seed 0   [2/5, about 0:05:00 left]']
    fail(student, 3)
    finish(other, 88., wall_time=100)
    assert told(student='failed', grandchild='blocked', other='done') == [
        f'[0:01:15] failed   student, seed 0: exit status 3, see {student.work_dir}/train.log   [3/5]',
        '[0:01:15] blocked  grandchild, seed 0: student, seed 0 failed, which was to teach   [3/5]',
        '[0:01:15] done     other, seed 0: error 12.00 %   [3/5]']


def test_accuracies_where_the_recipe_is_of_them(make_run):
    run, lines = make_run(), []
    plain = PlainProgress('T', 1, 'accuracy', lines.append)
    plain({run: 'waiting'})
    finish(run, 88.)
    plain({run: 'done'})
    assert 'accuracy 88.00 %' in lines[1]


# The table

def console(width=80, height=24):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def drawn(progress, width=80, height=24):
    out = console(width, height)
    out.print(progress)
    return out.file.getvalue().splitlines()


@pytest.fixture
def table(make_run, now):
    """One run in each state."""
    teacher = make_run('teacher')
    runs = dict(done=make_run('done'), failed=teacher, blocked=make_run('blocked', teacher=teacher),
                running=make_run('running', 12), waiting=make_run('waiting'))
    runs['later'] = make_run('later', teacher=runs['running'])
    finish(runs['done'], 91.5)
    fail(teacher, -9)
    begin(runs['running'])
    log(runs['running'], train(1, 100), 10.)
    begin(runs['running'], 100)
    log(runs['running'], train(3, 300) + validate(3, 60.) + train(4, 350), 115., name='2')
    now(115)
    progress = LiveProgress('A [bold]table[/bold]', 2)
    progress({run: 'waiting' if state == 'later' else state for state, run in runs.items()})
    now(10)
    return progress


@pytest.mark.parametrize('width', [60, 80, 120])
def test_the_table(table, width):
    lines = [line.split() for line in drawn(table, width)]
    assert lines[0] == ['A', '[bold]table[/bold]']
    assert ' '.join(lines[1])[:width - 1] == (
        '1/6 done, 1 failed, 1 blocked, 1 running; 0:00:10 elapsed, about 0:02:35 left'[:width - 1])
    assert lines[2] == ['config', 'seed', 'epoch', 'error', '%', 'left']
    assert lines[3] == ['done', 'done', '0', '10/10', '8.50']
    assert lines[4] == ['failed', 'teacher', '0', 'killed,', 'SIGKILL']
    assert lines[5] == ['blocked', 'blocked', '0', 'no', 'teacher']
    bar = [lines[6].pop(6)] if width == 120 else []
    assert lines[6] == ['running', 'running', '12', '3/10', 'from', '2', '40.00', '0:00:55']
    assert set(''.join(bar)) <= set('━╸╺')
    assert lines[7] == ['waiting', 'waiting', '0'] and lines[8] == ['waiting', 'later', '0', 'for', 'its', 'teacher']
    assert len(lines) == 9


@pytest.mark.parametrize('width, height', [(80, 24), (60, 12), (160, 50), (80, 6)])
@pytest.mark.parametrize('failed', [1, 40])
def test_it_fits_the_terminal(make_run, width, height, failed):
    states, kinds = {}, ['done'] * 40 + ['failed'] * failed + ['running'] * 3 + ['waiting'] * 60
    for seed, state in enumerate(kinds):
        run = make_run('a_config_with_a_very_long_name_1xb128_cifar10', seed)
        states[run] = state
        if state == 'done':
            finish(run, 90.)
        elif state == 'failed':
            fail(run)
    progress = LiveProgress('T' * 300, 3)
    progress(states)
    lines = drawn(progress, width, height)
    assert len(lines) <= height - 1 and max(map(len, lines)) <= width
    shown = [line.split()[0] for line in lines[3:-1]]
    room = height - 5
    assert shown.count('running') == min(3, room)
    assert shown.count('failed') == min(failed, room - shown.count('running'))
    assert len(shown) == room
    # Every run is shown or counted.
    rest = {state: kinds.count(state) - shown.count(state) for state in ('done', 'failed', 'running', 'waiting')}
    assert lines[-1] == 'not shown: ' + ', '.join(f'{n} {state}' for state, n in rest.items() if n)


def test_all_are_shown_where_there_is_room(make_run):
    progress = LiveProgress('T', 1)
    progress({make_run(seed=seed): 'waiting' for seed in range(19)})
    assert len(drawn(progress, height=24)) == 22
    assert len(drawn(progress, height=23)) == 22


def test_it_is_drawn_on_changes_and_else_seldom(make_run, now):
    progress, draws = LiveProgress('T', 1), []
    progress.draw = lambda: draws.append(1)
    run = make_run()
    for state, seconds, expected in [('waiting', 0, 1), ('waiting', 0.5, 1), ('running', 0.5, 2), ('running', 1, 2),
                                     ('running', 1, 3), ('done', 0, 4)]:
        now(seconds)
        finish(run, 90.)
        progress({run: state})
        assert len(draws) == expected


# Which of them

def test_lines_where_there_is_no_terminal(make_run):
    out = Console(file=io.StringIO())
    with show_progress('T', 1, console=out) as watch:
        watch({make_run(): 'waiting'})
    assert out.file.getvalue() == '[0:00:00] T: 1 trainings, 0 of them done before   [0/1]\n'


@pytest.mark.parametrize('environment, lines', [({}, False), (dict(TERM='dumb'), True), (dict(NO_COLOR='1'), False)])
def test_lines_where_the_terminal_cannot_do_better(make_run, monkeypatch, environment, lines):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    out = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    with show_progress('T', 1, console=out) as watch:
        watch({make_run(): 'waiting'})
    assert ('\x1b[' not in out.file.getvalue()) == lines


@pytest.mark.parametrize('error', [None, ValueError, KeyboardInterrupt])
def test_the_terminal_is_left_as_it_was(make_run, error):
    run, out = make_run(), console()
    try:
        with show_progress('The title', 1, console=out) as watch:
            watch({run: 'waiting'})
            if error:
                raise error('told elsewhere')
            finish(run, 90.)
            watch({run: 'done'})
    except (ValueError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    text = out.file.getvalue()
    assert text.rindex('\x1b[?25h') > text.rindex('\x1b[?25l')  # the cursor is seen again
    assert screen(text).count('The title') == 1 and 'told elsewhere' not in text
    assert text.endswith('\n\x1b[?25h')


def test_an_error_before_anything_is_shown_leaves_no_table():
    out = console()
    with pytest.raises(ValueError), show_progress('The title', 1, console=out):
        raise ValueError
    assert 'The title' not in out.file.getvalue()


def screen(text):
    """What a terminal shows in the end: lines, with the cursor moved up and lines erased."""
    lines, row = [''], 0
    for part in re.split(r'(\n|\r|\x1b\[[0-9;?]*[A-Za-z])', text):
        if part == '\n':
            row += 1
            lines += [''] * (row + 1 - len(lines))
        elif part.endswith('A') and part.startswith('\x1b'):
            row -= int(part[2:-1])
        elif part == '\x1b[2K':
            lines[row] = ''
        elif not part.startswith('\x1b') and part != '\r':
            lines[row] += part
    return '\n'.join(lines)


# In the end

def test_what_failed_and_what_it_held_up(make_run):
    teacher = make_run('teacher')
    middle = make_run('middle', teacher=teacher)
    last, killed, fine = make_run('last', teacher=middle), make_run('killed'), make_run('fine')
    silent = make_run('silent')
    (silent.work_dir / 'train.log').write_text('\n'.join(map(str, range(40))))
    fail(teacher, 1, 'one', 'RuntimeError: the cause')
    fail(killed, -9, '$ python')
    text = failures({teacher: 'failed', middle: 'blocked', last: 'blocked', killed: 'failed', fine: 'done',
                     silent: 'failed'})
    assert text.split('\n\n') == [
        f'teacher, seed 0 failed: exit status 1. The end of {teacher.work_dir}/train.log:\n    one\n'
        '    RuntimeError: the cause\nIt was to teach, and so were not trained: middle, seed 0; last, seed 0',
        f'killed, seed 0 failed: killed, SIGKILL. The end of {killed.work_dir}/train.log:\n    $ python',
        f'silent, seed 0 failed: its job died. The end of {silent.work_dir}/train.log:\n' + '\n'.join(
            f'    {number}' for number in range(25, 40)),
        'The same command starts what failed again, each from its last checkpoint.']


def test_nothing_failed(make_run):
    assert failures({make_run(): 'done'}) == '' and failures({}) == ''
