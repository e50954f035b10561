"""Train the runs of one job: ``python -m mmat.reproduce.job WORK_DIR...``.

A job trains one run, or several seeds of a config that share their batches.
"""
import argparse
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, Optional, Sequence

from mmat.errors import UserError
from mmat.utils.zoo import sha256_of

from .joint_runs import joint_label, split_into_jobs, training_command
from .provenance import describe_code, describe_hardware, describe_precision
from .run import Run, num_joint_runs, open_run, read_json, write_json

# Exit status of a job that was stopped, following the shell's convention.
_STOPPED = 128 + signal.SIGTERM


def run_job(runs: Sequence[Run], parent: Optional[int] = None) -> int:
    """Train the runs of a job that are not done, and write each one's ``result.json`` or ``failure.json``.

    Args:
        runs (Sequence[Run]): One item of :func:`~mmat.reproduce.joint_runs.split_into_jobs`.
        parent (int, optional): PID of a process; training stops when it ends. Defaults to None: it never stops early.

    Returns:
        int: 0, or the exit status of the training, negative if a signal ended it.

    Raises:
        UserError: Another process trains one of the runs.
    """
    with _lock_all(runs) as descriptors:
        left = [run for run in runs if not run.result]
        if not left:
            return 0
        for run in left:
            (run.work_dir / 'failure.json').unlink(missing_ok=True)
            _start_attempt(run, left)
        # The training inherits the descriptors, so the runs stay locked if this process is killed.
        trained = _run_step(left[0].log, _run_command, left[0].log, training_command(left), parent, descriptors)
        statuses = []
        for run in left:
            statuses.append(trained or _run_step(run.log, write_result, run, parent, descriptors))
            if statuses[-1] == _STOPPED:
                return _STOPPED
            if statuses[-1]:
                end = run.log.read_text(errors='replace').splitlines()[-15:]
                write_json(run.work_dir / 'failure.json', dict(status=statuses[-1], log=end))
        return next(filter(None, statuses), 0)


@contextmanager
def _lock_all(runs: Sequence[Run]):
    """Lock the runs for this process; yield the locks' file descriptors."""
    with ExitStack() as stack:
        descriptors = []
        # A fixed order, so that two jobs cannot wait for each other.
        for run in sorted(runs, key=lambda run: run.seed):
            descriptors.append(stack.enter_context(run.lock(timeout=2.)))
            if descriptors[-1] is None:
                raise UserError(f'{run.label} is running in another process, which holds '
                                f'{str(run.work_dir / "lock")!r}.')
        yield descriptors


def _run_step(log: Path, step: Callable[..., int], *args) -> int:
    """Return the status of a step; 1, with the traceback in the log, if it raises, e.g. because the disk is full."""
    try:
        return step(*args)
    except Exception:  # must not stop the other runs of the job
        with open(log, 'a') as file:
            traceback.print_exc(file=file)
        return 1


def write_result(run: Run, parent: Optional[int] = None, descriptors: Sequence[int] = ()) -> int:
    """Write ``result.json`` of a trained run: its metrics, and how they were obtained. The run then counts as done.

    Tests the last checkpoint first if the training was killed before the last validation. ``wall_time`` is summed over
    attempts; the time of a joint attempt is divided by its number of runs.

    Returns:
        int: 0, or the exit status of the test.
    """
    line = ([{}] + run.progress())[-1]
    # Training lines have an epoch, and the iteration as their step.
    metrics = {} if 'epoch' in line else {key: value for key, value in line.items() if '/' in key}
    if not metrics or line.get('step') != run.epochs:
        status = _run_command(run.log, run.command('test'), parent, descriptors)
        if status:
            return status
        metrics = read_json(run.work_dir / 'test.json')
    record = _end_attempt(run, time.time())
    write_json(run.work_dir / 'run.json', record)
    # Attempts may have run different commits.
    code, commits = describe_code(), dict.fromkeys(attempt['commit'] for attempt in record['attempts'])
    code['commit'] = ', '.join(filter(None, commits)) or None
    # The work directory may have been moved since last_checkpoint was written.
    checkpoint = run.work_dir / Path((run.work_dir / 'last_checkpoint').read_text().strip()).name
    shared = {} if run.batch_seed is None else dict(batch_seed=run.batch_seed)
    write_json(run.work_dir / 'result.json', dict(
        metrics=metrics, epochs=run.epochs, checkpoint=checkpoint.name, checkpoint_sha256=sha256_of(checkpoint),
        teacher_sha256=run.teacher and run.teacher.result['checkpoint_sha256'],
        wall_time=round(sum((attempt['ended'] - attempt['started']) / num_joint_runs(attempt)
                            for attempt in record['attempts'])),
        attempts=len(record['attempts']), date=time.strftime('%Y-%m-%d', time.gmtime()),
        precision=describe_precision(run.work_dir), hardware=describe_hardware(run.processes), **shared, **code))
    return 0


def _start_attempt(run: Run, together: Sequence[Run]) -> None:
    """Add an attempt to ``run.json``."""
    record = _end_attempt(run)
    seeds = dict(seeds=[each.seed for each in together]) if len(together) > 1 else {}
    record['attempts'].append(dict(
        started=time.time(), host=platform.node(), commit=describe_code()['commit'], **seeds))
    write_json(run.work_dir / 'run.json', record)


def _end_attempt(run: Run, now: Optional[float] = None) -> dict:
    """Return the record with an end of the last attempt: ``now``, or the last write to its logs if it was killed."""
    record = run.record
    # Not run.log, which joint runs share.
    logs = [run.work_dir / 'train.log', *run.work_dir.glob('*/vis_data/scalars.json')]
    for attempt in record['attempts'][-1:]:
        attempt.setdefault('ended', now or max(
            [attempt['started'], *(log.stat().st_mtime for log in logs if log.is_file())]))
    return record


def _run_command(log: Path, command: list, parent: Optional[int], descriptors: Sequence[int]) -> int:
    """Run a command with its output in the log; stop it on SIGTERM, or when ``parent`` ends."""
    stopped = []
    # Installed before the command starts. A handler that raises could interrupt between Popen and the assignment.
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGTERM, lambda *_: stopped.append(True)) if in_main_thread else None
    process = None
    try:
        with open(log, 'a') as file:
            print('$', *command, file=file, flush=True)
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       pass_fds=[descriptor for descriptor in descriptors if descriptor >= 0])
        while not stopped and (parent is None or os.getppid() == parent):
            try:
                return process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
        return _STOPPED
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            process.wait()
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='work directory of a run')
    parser.add_argument('--parent', type=int, metavar='PID', help='stop when this process ends')
    args = parser.parse_args()
    jobs = split_into_jobs([open_run(work_dir) for work_dir in args.work_dirs])
    if len(jobs) > 1:
        parser.error('these runs do not share batches, so one job cannot train them: '
                     f'{"; ".join(map(joint_label, jobs))}')
    return run_job(jobs[0], args.parent)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
