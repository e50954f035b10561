import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import fake_training
import pytest
from fake_training import accuracy_of, events, trainings_in, wait_for, weights_of

from mmat.errors import UserError
from mmat.reproduce import job
from mmat.reproduce.joint_runs import start_job
from mmat.reproduce.run import Run, open_run


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / 'config' / 'seed7', 'config', 7, epochs=3)
    run.prepare()
    return run


@pytest.fixture
def run_job(monkeypatch):
    """Run a job in this process with any script as training; the test gives the accuracy 12.5."""

    def run_job(run, script, test='pass'):
        test += f'; open({str(run.work_dir / "test.json")!r}, "w").write(\'{{"accuracy/top1": 12.5}}\')'
        monkeypatch.setattr(Run, 'command', lambda self, tool='train', together=(): [
            sys.executable, '-I', '-S', '-c', script if tool == 'train' else test])
        monkeypatch.setattr(job, 'describe_code', lambda: dict(commit='now', versions=dict(mmat='1')))
        return job.run_job([run])

    return run_job


def leaves(run, *lines, checkpoint=b'weights'):
    """Return a script that writes a checkpoint and a log."""
    folder = run.work_dir / 'log' / 'vis_data'
    return (f'import os; os.makedirs({str(folder)!r}, exist_ok=True); '
            f'open({str(folder / "scalars.json")!r}, "w").write({"".join(lines)!r}); '
            f'open({str(run.work_dir / "epoch_3.pth")!r}, "wb").write({checkpoint!r}); '
            f'open({str(run.work_dir / "last_checkpoint")!r}, "w").write("/where/it/was/epoch_3.pth")')


TRAINED = '{"loss": 1.0, "epoch": 3, "iter": 3, "step": 3}\n'


def validated(epoch, accuracy=75.5):
    return f'{{"accuracy/top1": {accuracy}, "accuracy/top5": 99.0, "time": 0.1, "step": {epoch}}}\n'


def test_a_result_records_its_origin(run, run_job):
    before = time.time()
    assert run_job(run, leaves(run, TRAINED, validated(3))) == 0
    result = run.result
    assert result['metrics'] == {'accuracy/top1': 75.5, 'accuracy/top5': 99.}
    assert result['checkpoint'] == 'epoch_3.pth' and result['epochs'] == 3 and result['teacher_sha256'] is None
    assert result['checkpoint_sha256'] == hashlib.sha256(b'weights').hexdigest()
    assert result['attempts'] == 1 and result['wall_time'] in (0, 1) and result['commit'] == 'now'
    attempt, = run.record['attempts']
    assert before <= attempt['started'] <= attempt['ended'] <= time.time()
    assert run.failure is None and not run.is_running


@pytest.mark.parametrize('lines', [
    [TRAINED],
    [validated(2), TRAINED],
    [validated(2)],
    [],
    # A training line may have a key with a slash, and as many iterations as there are epochs.
    ['{"grad/norm": 1.0, "epoch": 1, "iter": 3, "step": 3}\n'],
    [validated(3)[:-9]],
], ids=['trained', 'trained after', 'validated before', 'nothing', 'slash', 'cut off'])
def test_killed_between_the_last_checkpoint_and_its_validation_it_is_tested(run, run_job, lines):
    assert run_job(run, leaves(run, *lines)) == 0
    assert run.result['metrics'] == {'accuracy/top1': 12.5}


def test_the_last_log_is_used(run, run_job):
    later = run.work_dir / 'resumed' / 'vis_data'
    later.mkdir(parents=True)
    (later / 'scalars.json').write_text(validated(3, 60.))
    assert run_job(run, leaves(run, validated(3))) == 0
    assert run.result['metrics']['accuracy/top1'] == 60.


def test_the_hash_of_the_teacher_is_recorded(run, run_job, tmp_path):
    student = Run(tmp_path / 'student' / 'seed0', 'student', 0, epochs=3, teacher=run)
    student.prepare()
    assert run_job(run, leaves(run, validated(3), checkpoint=b'teacher')) == 0
    assert run_job(student, leaves(student, validated(3))) == 0
    assert student.result['teacher_sha256'] == hashlib.sha256(b'teacher').hexdigest()


def test_a_finished_run_is_skipped(run, run_job):
    run_job(run, leaves(run, validated(3)))
    assert run_job(run, 'raise SystemExit(1)') == 0
    assert len(run.record['attempts']) == 1 and run.failure is None


@pytest.mark.parametrize('script, status', [
    ('print("one"); print("the cause"); raise SystemExit(5)', 5),
    ('import os; print("one"); print("the cause", flush=True); os.kill(os.getpid(), 9)', -9),
    ('import os; print("one"); print("the cause", flush=True); os.kill(os.getpid(), 15)', -15),
])
def test_a_failure_keeps_the_end_of_the_log(run, run_job, script, status):
    (run.work_dir / 'train.log').write_text('earlier\n' * 30)
    assert run_job(run, script) == status
    assert run.failure['status'] == status and run.result is None
    assert run.failure['log'][-2:] == ['one', 'the cause'] and run.failure['log'][-3].startswith('$ ')
    assert len(run.failure['log']) == 15
    assert run_job(run, leaves(run, validated(3))) == 0
    assert run.failure is None and run.result['attempts'] == 2


def test_a_training_without_a_checkpoint_failed(run, run_job):
    assert run_job(run, 'pass') == 1
    assert 'last_checkpoint' in run.failure['log'][-1] and run.result is None


def test_a_test_that_fails(run, run_job):
    assert run_job(run, leaves(run, TRAINED), test='raise SystemExit(4)') == 4
    assert run.failure['status'] == 4


def test_wall_time_is_the_time_of_all_attempts(run, run_job):
    """Killed after 50 seconds, by the time of its log, and started again much later."""
    start = time.time() - 5000
    record = run.record
    record['attempts'] = [dict(started=start - 1000, ended=start - 900, host='h', commit='first'),
                          dict(started=start, host='h', commit='second')]
    (run.work_dir / 'run.json').write_text(json.dumps(record))
    (run.work_dir / 'train.log').touch()
    os.utime(run.work_dir / 'train.log', (start + 50, start + 50))
    assert run_job(run, leaves(run, validated(3))) == 0
    assert run.result['attempts'] == 3 and run.result['wall_time'] in (150, 151, 152)
    assert run.result['commit'] == 'first, second, now'


def test_one_process_at_a_time(run, run_job, monkeypatch):
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(time, 'monotonic', itertools.count().__next__)
    with run.lock() as mine:
        assert mine is not None
        with pytest.raises(UserError, match="config, seed 7 .*seed7/lock'"):
            run_job(run, 'pass')
    assert run.record['attempts'] == []


def test_a_job_waits_for_a_short_lock(run, run_job):
    """Another call of the tool checks if the run is locked at the moment when the job starts."""
    holder = subprocess.Popen([sys.executable, '-S', '-c', (
        f'import fcntl, time; f = open({str(run.work_dir / "lock")!r}, "w"); fcntl.flock(f, fcntl.LOCK_EX); '
        f'print(flush=True); time.sleep(0.3)')], stdout=subprocess.PIPE)
    holder.stdout.readline()
    assert run_job(run, leaves(run, validated(3))) == 0
    holder.wait()
    holder.stdout.close()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake_training.install(monkeypatch, tmp_path)
    return tmp_path


def test_it_trains_in_a_separate_process(fake, run):
    assert start_job([run]).wait() == 0
    assert run.result['metrics']['accuracy/top1'] == accuracy_of(weights_of(7, 3))


def test_sigterm_stops_the_training_which_resumes_later(fake, run):
    (fake / 'hold').touch()
    process = start_job([run])
    wait_for(lambda: (run.work_dir / 'last_checkpoint').exists())
    assert run.is_running and trainings_in(fake)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not trainings_in(fake) and not run.is_running and run.failure is None
    (fake / 'hold').unlink()
    assert start_job([run]).wait() == 0
    assert run.result['metrics']['accuracy/top1'] == accuracy_of(weights_of(7, 3)) and run.result['attempts'] == 2
    assert [event[2] for event in events(fake) if event[0] == 'begin'] == ['0', '1']


def test_the_run_is_locked_until_the_last_process_ends(fake, run):
    (fake / 'hold').touch()
    process = start_job([run])
    wait_for(lambda: events(fake))
    process.kill()
    process.wait()
    assert run.is_running  # its training continues
    training, = trainings_in(fake)
    os.kill(training, signal.SIGKILL)
    wait_for(lambda: not run.is_running)


def test_without_its_parent_it_stops(fake, run):
    """Also if the parent ends before the job has started."""
    pid = subprocess.run([sys.executable, '-c', 'import os; print(os.getpid())'], capture_output=True).stdout
    job = subprocess.run([sys.executable, '-m', 'mmat.reproduce.job', str(run.work_dir), '--parent',
                          pid.decode().strip()])
    assert job.returncode == 128 + signal.SIGTERM and not trainings_in(fake) and run.failure is None


def test_the_command_line_needs_no_parent(fake, run):
    subprocess.run([sys.executable, '-m', 'mmat.reproduce.job', str(run.work_dir)], check=True)
    assert open_run(run.work_dir).result


def test_it_starts_fast():
    """Without torch and mmengine: a cluster starts hundreds of jobs."""
    check = 'import sys, mmat.reproduce.job; sys.exit(any(name in sys.modules for name in ("torch", "mmengine")))'
    subprocess.run([sys.executable, '-c', check], check=True)
