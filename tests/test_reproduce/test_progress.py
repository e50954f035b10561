import io
import json
import os
import re
import shutil
import time

import pytest
from rich.console import Console

from mmat.reproduce.progress import LiveProgress, PlainProgress, format_clock, format_failures, show_progress
from mmat.reproduce.run import Run
from mmat.reproduce.run_log import RunLog

START = 1_700_000_000


@pytest.fixture(autouse=True)
def now(monkeypatch):
    """Fix both clocks; `now(seconds)` advances them."""
    passed = [0.]
    monkeypatch.setattr(time, 'time', lambda: START + passed[0])
    monkeypatch.setattr(time, 'monotonic', lambda: 50. + passed[0])

    def advance(seconds):
        passed[0] += seconds

    return advance


@pytest.fixture
def make_run(tmp_path):
    def make_run(name='net', seed=0, epochs=10, teacher=None, batch_seed=None):
        run = Run(tmp_path / name / f'seed{seed}', name, seed, epochs, teacher=teacher, batch_seed=batch_seed)
        run.work_dir.mkdir(parents=True)
        return run

    return make_run


def begin(run, seconds=0.):
    """Record an attempt that started then."""
    record = run.record
    record.setdefault('attempts', []).append(dict(started=START + seconds))
    (run.work_dir / 'run.json').write_text(json.dumps(record))


def log(run, text, seconds=0., name='1'):
    """Append to its log at that time."""
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


# Logs

def test_a_log_is_followed(make_run):
    run = make_run()
    follower = RunLog(run)
    follower.read()
    assert follower.epoch == 0 and follower.accuracy is None and follower.pace is None and follower.left(None) is None
    begin(run)
    log(run, train(1, 100), 10)
    follower.read()
    assert follower.epoch == 0  # the length of an epoch is unknown
    log(run, train(1, 400) + validate(1, 50.), 40)
    follower.read()
    assert (follower.epoch, follower.validated, follower.accuracy, follower.pace) == (1, 1, 50., 40.)
    log(run, train(2, 500), 50)
    follower.read()
    assert follower.epoch == 1.25 and follower.pace == 40.
    log(run, train(2, 800) + validate(2, 60.)[:-5], 80)
    follower.read()
    assert follower.epoch == 2 and follower.accuracy == 50.  # half a line does not count
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
    parsed = []
    monkeypatch.setattr(follower, '_parse', parsed.append)
    follower.read()
    log(run, validate(2, 60.))
    follower.read()
    assert parsed == [validate(2, 60.).encode()]


def test_a_resumed_run_continues_in_another_folder(make_run, now):
    run = make_run()
    begin(run)
    log(run, train(1, 400) + validate(1, 50.) + train(2, 800) + validate(2, 60.) + train(3, 900) + '{"lo', 100)
    begin(run, 1000)
    log(run, train(3, 1200) + validate(3, 70.), 1030, name='2')
    now(1030)
    follower = RunLog(run)
    follower.read()
    assert (follower.epoch, follower.accuracy, follower.resumed) == (3, 70., 2)
    assert follower.pace == 30.  # since the restart
    assert follower.left(follower.pace) == 210.
    now(10)
    assert follower.left(follower.pace) == 200.
    now(1000)
    assert follower.left(follower.pace) == 180.  # at most the current epoch is subtracted


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
    """Two runs at a time, with 60 and 100 s left; then a student of the second, 200 s, and another run, 50 s."""
    first, second = make_run('a'), make_run('b')
    student, other, done = make_run('b', 1, teacher=second), make_run('a', 1, epochs=5), make_run('a', 2)
    for run, pace, epoch in ((first, 10., 4), (second, 20., 5)):
        begin(run)
        log(run, train(1, 1) + train(epoch, epoch) + validate(epoch, 50.), pace * epoch)
    now(40)
    finish(done, 90., wall_time=100)
    progress = PlainProgress('T', 2, write=lambda line: None)
    states = {first: 'running', second: 'running', student: 'waiting', other: 'waiting', done: 'done'}
    progress.update(states)
    assert progress.seconds_per_epoch() == {'a': 10., 'b': 20.}
    assert progress.time_left(first) == 60. and progress.time_left(second) == 100.
    # The student gets the first free slot, at 60 s, waits for its teacher and runs from 100 to 300 s. The other run
    # gets the teacher's slot, from 100 to 150 s.
    assert progress.total_time_left() == 300.
    states.update({second: 'done', student: 'done'})
    finish(second, 1.)
    finish(student, 1.)
    progress.update(states)
    assert progress.total_time_left() == 60.
    progress.update({run: 'done' for run in states} | {first: 'failed'})
    assert progress.total_time_left() == 0.


def test_time_left_of_runs_that_are_trained_together_by_hand(make_run, now):
    """One process with two seeds and 60 s left; then two more seeds of that config in one process, at 5 s an epoch
    each, and a student of one of the first."""
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
    progress.update(states)
    assert progress.seconds_per_epoch() == {'a': 5., 'b': 4.}
    assert progress.time_left(first) == progress.time_left(second) == 60.
    # 60 s, then 2 x 10 x 5 s, then 5 x 4 s.
    assert progress.total_time_left() == 60 + 100 + 20
    progress.jobs = 2
    # The two start at once and end at 100 s; the student starts at 60 s, after its teacher.
    assert progress.total_time_left() == 100.
    # A group with one running seed takes as long as that seed.
    states[first] = 'done'
    finish(first, 90., wall_time=50)
    progress.update({**states, **dict.fromkeys(later, 'done'), student: 'done'})
    assert progress.total_time_left() == 60.


def test_a_group_that_just_started_takes_the_sum_of_its_shares(make_run):
    done, *running = (make_run(seed=seed, batch_seed=0) for seed in range(3))
    finish(done, 90., wall_time=100)
    progress = PlainProgress('T', 1, write=lambda line: None)
    progress.update({done: 'done', **dict.fromkeys(running, 'running')})
    assert progress.time_left(running[1]) == progress.total_time_left() == 200.


def test_seeds_that_fail_together_are_one_failure(make_run, tmp_path):
    runs = [make_run(seed=seed, batch_seed=0) for seed in range(3)]
    student = make_run('student', teacher=runs[2])
    for run in runs[1:]:
        fail(run, 3, 'one', 'the cause')
    states = {runs[0]: 'done', runs[1]: 'failed', runs[2]: 'failed', student: 'blocked'}
    failure, _ = format_failures(states).split('\n\n')
    head, *log, blocked = failure.splitlines()
    assert re.match(r'net, seeds 1, 2 .*\b3\b', head) and f'{tmp_path}/net/train.log' in head
    assert log == ['    one', '    the cause'] and blocked.endswith(' student, seed 0')


def test_no_estimate_at_the_beginning(make_run):
    progress = PlainProgress('T', 1, write=lambda line: None)
    progress.update({make_run(): 'waiting'})
    assert progress.total_time_left() is None


def test_a_run_that_just_started_takes_as_long_as_others_of_its_config(make_run):
    done, running, unlike = make_run(seed=0), make_run(seed=1), make_run('unlike')
    finish(done, 90., wall_time=100)
    progress = PlainProgress('T', 2, write=lambda line: None)
    progress.update({done: 'done', running: 'running', unlike: 'running'})
    assert progress.time_left(running) == progress.total_time_left() == 100. and progress.time_left(unlike) is None


def test_configs_without_measurements_take_the_mean_of_the_others(make_run):
    short, long, unknown = make_run('a', epochs=1), make_run('b', epochs=100), make_run('c', epochs=50)
    finish(short, 90., wall_time=40)
    finish(long, 90., wall_time=60)
    progress = PlainProgress('T', 1, write=lambda line: None)
    progress.update({short: 'done', long: 'done', unknown: 'waiting'})
    assert progress.total_time_left() == 50.


@pytest.mark.parametrize('seconds, text', [(0, '0:00:00'), (59.9, '0:00:59'), (3661, '1:01:01'), (360000, '100:00:00')])
def test_format_clock(seconds, text):
    assert format_clock(seconds) == text


# Lines

def values_of(line):
    """States, names and numbers in a line, without the words around them."""
    names = 'done|waiting|running|failed|blocked|teacher|student|grandchild|other|error'
    return ' '.join(re.findall(rf'\d+(?:[:./]\d+)*|\b(?:{names})\b|/\S+', line))


def test_a_line_for_each_event(make_run, now):
    teacher, before = make_run('teacher'), make_run('before')
    student = make_run('student', teacher=teacher)
    grandchild, other = make_run('grandchild', teacher=student), make_run('other')
    finish(before, 91.5)
    lines = []
    plain = PlainProgress('A table', 1, write=lines.append)
    states = {before: 'done', teacher: 'waiting', student: 'waiting', grandchild: 'waiting', other: 'waiting'}

    def written(**changes):
        lines.clear()
        states.update({run: changes[run.name] for run in states if run.name in changes})
        plain(states)
        return [values_of(line) for line in lines]

    assert written() == ['0:00:00 5 1 done 1/5 0:06:40'] and lines[0].startswith('[0:00:00] A table')
    assert written() == []
    now(5)
    begin(teacher, 5)
    assert written(teacher='running') == ['0:00:05 running teacher 0 1/5 0:06:40']
    log(teacher, train(1, 10) + validate(1, 50.25), 25)
    now(20)
    assert written() == []  # less than `pause` since the last line
    now(10)
    assert written() == ['0:00:35 running teacher 0 1/10 error 49.75 0:02:50 1/5 0:10:20']
    now(40)
    assert written() == []  # nothing new
    finish(teacher, 88., wall_time=100)
    assert written(teacher='done', student='running') == [
        '0:01:15 done teacher 0 error 12.00 2/5 0:05:00', '0:01:15 running student 0 2/5 0:05:00']
    fail(student, 3)
    finish(other, 88., wall_time=100)
    assert written(student='failed', grandchild='blocked', other='done') == [
        f'0:01:15 failed student 0 3 {student.work_dir}/train.log 3/5',
        '0:01:15 blocked grandchild 0 student 0 failed 3/5', '0:01:15 done other 0 error 12.00 3/5']


def test_accuracies_if_the_recipe_measures_them(make_run):
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
    counts = re.findall(r'\d[\d:/]*(?: (?:done|failed|blocked|running))?', ' '.join(lines[1]))
    assert counts[:4] == ['1/6 done', '1 failed', '1 blocked', '1 running']
    assert width < 80 or counts[4:] == ['0:00:10', '0:02:35']
    assert lines[2] == ['config', 'seed', 'epoch', 'error', '%', 'left']
    assert lines[3] == ['done', 'done', '0', '10/10', '8.50']
    assert lines[4][:3] == ['failed', 'teacher', '0'] and lines[4][-1] == 'SIGKILL'
    assert lines[5][:3] == ['blocked', 'blocked', '0'] and 'teacher' in lines[5]
    bar = [lines[6].pop(6)] if width == 120 else []
    assert lines[6] == ['running', 'running', '12', '3/10', 'from', '2', '40.00', '0:00:55']
    assert set(''.join(bar)) <= set('━╸╺')
    assert lines[7] == ['waiting', 'waiting', '0']
    assert lines[8][:3] == ['waiting', 'later', '0'] and lines[8][-1] == 'teacher'
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


def test_it_is_redrawn_on_changes_and_otherwise_every_two_seconds(make_run, now):
    progress, draws = LiveProgress('T', 1), []
    progress.draw = lambda: draws.append(1)
    run = make_run()
    for state, seconds, expected in [('waiting', 0, 1), ('waiting', 0.5, 1), ('running', 0.5, 2), ('running', 1, 2),
                                     ('running', 1, 3), ('done', 0, 4)]:
        now(seconds)
        finish(run, 90.)
        progress({run: state})
        assert len(draws) == expected


# Choice between lines and table

def test_lines_without_a_terminal(make_run):
    out = Console(file=io.StringIO())
    with show_progress('T', 1, console=out) as watch:
        watch({make_run(): 'waiting'})
    assert re.fullmatch(r'\[0:00:00\] T: 1 \D*0 \D*\[0/1\]\n', out.file.getvalue())


@pytest.mark.parametrize('environment, lines', [({}, False), (dict(TERM='dumb'), True), (dict(NO_COLOR='1'), False)])
def test_lines_in_a_dumb_terminal(make_run, monkeypatch, environment, lines):
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
                raise error('the error')
            finish(run, 90.)
            watch({run: 'done'})
    except (ValueError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    text = out.file.getvalue()
    assert text.rindex('\x1b[?25h') > text.rindex('\x1b[?25l')  # the cursor is visible again
    assert screen(text).count('The title') == 1 and 'the error' not in text
    assert text.endswith('\n\x1b[?25h')


def test_an_error_before_anything_is_shown_leaves_no_table():
    out = console()
    with pytest.raises(ValueError), show_progress('The title', 1, console=out):
        raise ValueError
    assert 'The title' not in out.file.getvalue()


def screen(text):
    """The final content of a terminal, after cursor movements and erased lines."""
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


# Failures

def test_failures_with_blocked_students(make_run):
    teacher = make_run('teacher')
    middle = make_run('middle', teacher=teacher)
    last, killed, fine = make_run('last', teacher=middle), make_run('killed'), make_run('fine')
    silent = make_run('silent')
    (silent.work_dir / 'train.log').write_text('\n'.join(map(str, range(40))))
    fail(teacher, 1, 'one', 'RuntimeError: the cause')
    fail(killed, -9, '$ python')
    *paragraphs, _ = format_failures({
        teacher: 'failed', middle: 'blocked', last: 'blocked', killed: 'failed', fine: 'done',
        silent: 'failed'}).split('\n\n')
    expected = [(teacher, '1', ['one', 'RuntimeError: the cause'], ['middle, seed 0; last, seed 0']),
                (killed, 'SIGKILL', ['$ python'], []), (silent, 'died', list(map(str, range(25, 40))), [])]
    assert len(paragraphs) == len(expected)
    for paragraph, (run, status, log, blocked) in zip(paragraphs, expected):
        head, *lines = paragraph.splitlines()
        assert re.match(rf'{run.label} failed\b.*\b{status}\b', head) and f'{run.work_dir}/train.log' in head
        assert lines[:len(log)] == [f'    {line}' for line in log]
        assert [line.partition(': ')[2] for line in lines[len(log):]] == blocked


def test_no_failures(make_run):
    assert format_failures({make_run(): 'done'}) == '' and format_failures({}) == ''
