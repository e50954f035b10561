"""Carrying out a training of a table, wherever it runs: ``python -m mmat.reproduce.job WORK_DIR``.

Seeds that share their batches are one training, of several folders.
"""
import argparse
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, Optional, Sequence

from mmat.utils.zoo import sha256_of

from .joint_runs import joint_label, split_into_jobs, training_command
from .provenance import describe_code, describe_hardware, describe_precision
from .run import Run, num_joint_runs, open_run, read_json, write_json

# The exit status of what was told to stop, as a shell has it.
_STOPPED = 128 + signal.SIGTERM


def carry_out(group: Sequence[Run], parent: Optional[int] = None) -> int:
    """Train what is left of a group, and write down what came out of each: ``result.json``, or ``failure.json``.

    Args:
        group (Sequence[Run]): One of :func:`~mmat.reproduce.joint_runs.split_into_jobs`. Of those that are done nothing happens.
        parent (int, optional): Process without which the training is stopped. Defaults to None: it goes on.

    Returns:
        int: 0, or the exit status of the training, negative where a signal ended it.

    Raises:
        RuntimeError: Another process has one of the runs.
    """
    with _hold(group) as descriptors:
        left = [run for run in group if not run.result]
        if not left:
            return 0
        for run in left:
            (run.work_dir / 'failure.json').unlink(missing_ok=True)
            _note_attempt(run, left)
        # Whoever inherits the descriptors holds the runs, also after this process was killed.
        trained = _status_of(left[0].log, _call, left[0].log, training_command(left), parent, descriptors)
        statuses = []
        for run in left:
            statuses.append(trained or _status_of(run.log, measure, run, parent, descriptors))
            if statuses[-1] == _STOPPED:
                return _STOPPED
            if statuses[-1]:
                end = run.log.read_text(errors='replace').splitlines()[-15:]
                write_json(run.work_dir / 'failure.json', dict(status=statuses[-1], log=end))
        return next(filter(None, statuses), 0)


@contextmanager
def _hold(group: Sequence[Run]):
    """The runs for this process alone: their locks' file descriptors."""
    with ExitStack() as stack:
        descriptors = []
        # All take them in this order: whoever has the first gets the others.
        for run in sorted(group, key=lambda run: run.seed):
            descriptors.append(stack.enter_context(run.lock(patience=2.)))
            if descriptors[-1] is None:
                raise RuntimeError(f'{run.label} is running in another process; {str(run.work_dir / "lock")!r} is held')
        yield descriptors


def _status_of(log: Path, step: Callable[..., int], *args) -> int:
    """What a step comes to; 1 where it raises, which the log then tells: no checkpoint to measure, a full disk."""
    try:
        return step(*args)
    except Exception:  # of this group alone
        with open(log, 'a') as file:
            traceback.print_exc(file=file)
        return 1


def measure(run: Run, parent: Optional[int] = None, descriptors: Sequence[int] = ()) -> int:
    """Write down what a trained run came to, and where that is from; from here on it is done.

    ``wall_time`` is the run's share of each time that it was begun: what it took, divided by how many were trained.

    Returns:
        int: 0, or the exit status of the test.
    """
    line = ([{}] + run.progress())[-1]
    # Training's own lines have an epoch beside their step, the iteration.
    metrics = {} if 'epoch' in line else {key: value for key, value in line.items() if '/' in key}
    if not metrics or line.get('step') != run.epochs:
        # Killed between the last checkpoint and its validation.
        status = _call(run.log, run.command('test'), parent, descriptors)
        if status:
            return status
        metrics = read_json(run.work_dir / 'test.json')
    record = _end_attempt(run, time.time())
    write_json(run.work_dir / 'run.json', record)
    # The code may have changed while it ran.
    code, commits = describe_code(), dict.fromkeys(attempt['commit'] for attempt in record['attempts'])
    code['commit'] = ', '.join(filter(None, commits)) or None
    # The pointer has the path as the training saw it.
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


def _note_attempt(run: Run, together: Sequence[Run]) -> None:
    record = _end_attempt(run)
    seeds = dict(seeds=[each.seed for each in together]) if len(together) > 1 else {}
    record['attempts'].append(dict(
        started=time.time(), host=platform.node(), commit=describe_code()['commit'], **seeds))
    write_json(run.work_dir / 'run.json', record)


def _end_attempt(run: Run, now: Optional[float] = None) -> dict:
    """The record, where the last time that it was begun has an end: that of its logs, where it was killed."""
    record = run.record
    # A log above it is of others too.
    logs = [run.work_dir / 'train.log', *run.work_dir.glob('*/vis_data/scalars.json')]
    for attempt in record['attempts'][-1:]:
        attempt.setdefault('ended', now or max(
            [attempt['started'], *(log.stat().st_mtime for log in logs if log.is_file())]))
    return record


def _call(log: Path, command: list, parent: Optional[int], descriptors: Sequence[int]) -> int:
    """Run a command to its end, its output in the log; stop it with this process, or with ``parent``."""
    told = []
    # Before there is anything to stop, and without an exception, which could come between its start and its name.
    handler = signal.signal(signal.SIGTERM, lambda *_: told.append(True)) if _in_main_thread() else None
    process = None
    try:
        with open(log, 'a') as file:
            print('$', *command, file=file, flush=True)
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       pass_fds=[descriptor for descriptor in descriptors if descriptor >= 0])
        while not told and (parent is None or os.getppid() == parent):
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


def _in_main_thread() -> bool:
    import threading
    return threading.current_thread() is threading.main_thread()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR')
    parser.add_argument('--parent', type=int, metavar='PID', help='process without which it stops')
    args = parser.parse_args()
    groups = split_into_jobs([open_run(work_dir) for work_dir in args.work_dirs])
    if len(groups) > 1:
        parser.error(f'{", ".join(map(joint_label, groups))} are no training together')
    return carry_out(groups[0], args.parent)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(str(error))
