"""Train runs side by side on this machine, students after their teachers."""
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence

from mmat.errors import ConfigError

from .joint_runs import resumable_together, split_into_jobs, start_job
from .run import Run
from .states import BLOCKED, DONE, FAILED, RUNNING, WAITING


def assign_devices(jobs: Optional[int], gpus: Optional[Sequence[int]], processes: int = 1) -> List[dict]:
    """Divide the machine's GPUs, or its CPU cores if it has none, among jobs.

    Args:
        jobs (int, optional): Number of simultaneous jobs. Defaults to None: as many as the GPUs, or else the cores,
            suffice for.
        gpus (Sequence[int], optional): GPU indices. Defaults to None: all.
        processes (int): Processes of each training. Defaults to 1.

    Returns:
        list[dict]: ``gpus`` or ``cores`` of each job.

    Raises:
        ConfigError: A GPU does not exist or is given twice, there are fewer GPUs than a training needs, or ``jobs`` is
            not positive.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f'--jobs must be at least 1, got {jobs}.')
    import torch
    count = torch.cuda.device_count()
    for gpu in gpus or ():
        # Otherwise a training would silently use the CPU.
        if not 0 <= gpu < count:
            raise ConfigError(f'--gpus: no GPU {gpu}. ' + (
                f'Choose from 0 to {count - 1}.' if count else 'PyTorch sees no GPU on this machine.'))
        if list(gpus).count(gpu) > 1:
            raise ConfigError(f'--gpus: GPU {gpu} is given more than once.')
    gpus = range(count) if gpus is None else gpus
    if gpus:
        shares = [list(gpus[start:start + processes]) for start in range(0, len(gpus) - processes + 1, processes)]
        if not shares:
            raise ConfigError(f'Each training needs {processes} GPUs, but only {len(gpus)} can be used. See '
                              '--gpus-per-run.')
        return [dict(gpus=shares[job % len(shares)]) for job in range(jobs or len(shares))]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(os.cpu_count() or 1))
    jobs = jobs or max(1, len(cores) // processes)
    share = max(1, len(cores) // jobs)
    return [dict(cores=[cores[(job * share + core) % len(cores)] for core in range(share)]) for job in range(jobs)]


@dataclass
class _Job:
    """A job that this process started."""
    runs: List[Run]
    process: subprocess.Popen
    device: dict


def execute(runs: Sequence[Run], devices: Sequence[dict], watch: Callable[[Dict[Run, str]], None],
            pause: float = 0.5) -> Dict[Run, str]:
    """Train the runs that are not done, one job per device at a time.

    Runs that share batches are trained in one job, see :func:`~mmat.reproduce.joint_runs.split_into_jobs`. If a run
    fails, only its students are skipped. Jobs stop when this process ends.

    Args:
        runs (Sequence[Run]): In training order: teachers before their students.
        devices (Sequence[dict]): One per simultaneous job, see :func:`assign_devices`.
        watch (Callable): Called with the states of all runs after each poll.
        pause (float): Seconds between two polls. Defaults to 0.5.

    Returns:
        dict: Run -> 'done', 'failed', or 'blocked' if its teacher failed.

    Raises:
        ConfigError, FileError: See :meth:`~mmat.reproduce.run.Run.prepare`.
    """
    free, jobs, planned = list(devices), [], split_into_jobs(runs)
    for run in runs:
        run.check()  # all of them before anything is written
    for run in runs:
        run.prepare()
    states = {run: DONE if run.result else RUNNING if run.is_running else WAITING for run in runs}
    # SIGHUP stays ignored under nohup.
    handlers = {number: signal.signal(number, _raise_interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
                if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        watch(states)
        while any(state in (WAITING, RUNNING) for state in states.values()):
            _update_states(states, jobs, free)
            # After the update, so that a free device goes to the first waiting run.
            for together in planned:
                _start_waiting(together, states, jobs, free)
            watch(states)
            time.sleep(pause)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for job in jobs:
            job.process.terminate()
        for job in jobs:
            job.process.wait()
    return states


def _update_states(states: Dict[Run, str], jobs: List[_Job], free: List[dict]) -> None:
    """Update the states of runs whose job has ended, here or in another process."""
    for job in [job for job in jobs if job.process.poll() is not None]:
        jobs.remove(job)
        free.insert(0, job.device)
        for run in job.runs:
            # If only the job was killed, its training continues; then wait for it as for another process's.
            states[run] = DONE if run.result else RUNNING if run.is_running else FAILED
    own = [run for job in jobs for run in job.runs]
    for run, state in states.items():
        if state == RUNNING and run not in own and not run.is_running:
            # Started by an earlier call of the tool, or by a simultaneous one.
            states[run] = DONE if run.result else FAILED if run.failure else WAITING


def _start_waiting(together: List[Run], states: Dict[Run, str], jobs: List[_Job], free: List[dict]) -> None:
    """Start a job for the waiting ones of some joint runs, if a device is free and their teacher is done."""
    waiting = [run for run in together if states[run] == WAITING]
    teacher = states.get(together[0].teacher, DONE)
    if waiting and teacher in (FAILED, BLOCKED):
        states.update(dict.fromkeys(waiting, BLOCKED))
    elif waiting and teacher == DONE and free:
        states.update({run: RUNNING for run in waiting if run.is_running})
        # If another process trains some of them, wait until all others can be trained together.
        if not any(states[run] == RUNNING for run in together):
            device, started = free.pop(0), resumable_together(waiting)
            jobs.append(_Job(started, start_job(started, device), device))
            states.update(dict.fromkeys(started, RUNNING))


def _raise_interrupt(number, frame):
    raise KeyboardInterrupt
