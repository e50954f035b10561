"""Carrying out one training of a table, wherever it runs: ``python -m mmat.reproduce.job WORK_DIR``."""
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Optional

from mmat.utils.zoo import sha256_of

from .provenance import describe_code, describe_hardware, describe_precision
from .run import Run, open_run, read_json, write_json

# The exit status of what was told to stop, as a shell has it.
_STOPPED = 128 + signal.SIGTERM


def carry_out(run: Run, parent: Optional[int] = None) -> int:
    """Train what is left of a run, and write down what came out: ``result.json``, or ``failure.json``.

    Args:
        run (Run): The run; where it is done, nothing happens.
        parent (int, optional): Process without which the training is stopped. Defaults to None: it goes on.

    Returns:
        int: 0, or the exit status of the training, negative where a signal ended it.

    Raises:
        RuntimeError: Another process has the run.
    """
    with run.lock(patience=2.) as descriptor:
        if descriptor is None:
            raise RuntimeError(f'{run.label} is running in another process; {str(run.work_dir / "lock")!r} is held')
        if run.result:
            return 0
        (run.work_dir / 'failure.json').unlink(missing_ok=True)
        _note_attempt(run)
        try:
            # Whoever inherits the descriptor holds the run, also after this process was killed.
            status = _call(run, run.command(), parent, descriptor)
            if status == 0:
                status = measure(run, parent, descriptor)
        except Exception:  # no checkpoint to measure, a full disk: of this run alone
            with open(run.work_dir / 'train.log', 'a') as log:
                traceback.print_exc(file=log)
            status = 1
        if status not in (0, _STOPPED):
            end = (run.work_dir / 'train.log').read_text(errors='replace').splitlines()[-15:]
            write_json(run.work_dir / 'failure.json', dict(status=status, log=end))
        return status


def measure(run: Run, parent: Optional[int] = None, descriptor: int = -1) -> int:
    """Write down what a trained run came to, and where that is from; from here on it is done.

    Returns:
        int: 0, or the exit status of the test.
    """
    line = ([{}] + run.progress())[-1]
    # Training's own lines have an epoch beside their step, the iteration.
    metrics = {} if 'epoch' in line else {key: value for key, value in line.items() if '/' in key}
    if not metrics or line.get('step') != run.epochs:
        # Killed between the last checkpoint and its validation.
        status = _call(run, run.command('test'), parent, descriptor)
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
    write_json(run.work_dir / 'result.json', dict(
        metrics=metrics, epochs=run.epochs, checkpoint=checkpoint.name, checkpoint_sha256=sha256_of(checkpoint),
        teacher_sha256=run.teacher and run.teacher.result['checkpoint_sha256'],
        wall_time=round(sum(attempt['ended'] - attempt['started'] for attempt in record['attempts'])),
        attempts=len(record['attempts']), date=time.strftime('%Y-%m-%d', time.gmtime()),
        precision=describe_precision(run.work_dir), hardware=describe_hardware(run.processes), **code))
    return 0


def _note_attempt(run: Run) -> None:
    record = _end_attempt(run)
    record['attempts'].append(dict(started=time.time(), host=platform.node(), commit=describe_code()['commit']))
    write_json(run.work_dir / 'run.json', record)


def _end_attempt(run: Run, now: Optional[float] = None) -> dict:
    """The record, where the last time that it was begun has an end: that of its log, where it was killed."""
    record = run.record
    log = run.work_dir / 'train.log'
    for attempt in record['attempts'][-1:]:
        attempt.setdefault('ended', now or max(attempt['started'], log.stat().st_mtime if log.is_file() else 0))
    return record


def _call(run: Run, command: list, parent: Optional[int], descriptor: int) -> int:
    """Run a command to its end, its output in the log; stop it with this process, or with ``parent``."""
    told = []
    # Before there is anything to stop, and without an exception, which could come between its start and its name.
    handler = signal.signal(signal.SIGTERM, lambda *_: told.append(True)) if _in_main_thread() else None
    process = None
    try:
        with open(run.work_dir / 'train.log', 'a') as log:
            print('$', *command, file=log, flush=True)
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       pass_fds=[descriptor] if descriptor >= 0 else [])
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


if __name__ == '__main__':
    try:
        sys.exit(carry_out(open_run(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else None))
    except RuntimeError as error:
        sys.exit(str(error))
