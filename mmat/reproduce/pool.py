"""Trainings side by side on this machine, each when its teacher is done."""
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence

from .joint_runs import resumable_together, split_into_jobs, start
from .run import Run

# What a run can be, in the order of its life.
WAITING, RUNNING, DONE, FAILED, BLOCKED = 'waiting', 'running', 'done', 'failed', 'blocked'


def assign_devices(jobs: Optional[int], gpus: Optional[Sequence[int]], processes: int = 1) -> List[dict]:
    """What each of the trainings that run side by side may use.

    Args:
        jobs (int, optional): How many run at a time. Defaults to None: as many as there are GPUs for, on a machine
            without them one for each core.
        gpus (Sequence[int], optional): Numbers of the GPUs. Defaults to None: all.
        processes (int): How many share a training. Defaults to 1.

    Returns:
        list[dict]: ``gpus``, or the ``cores`` of a machine without GPUs, for each.

    Raises:
        ValueError: There are fewer GPUs than a training needs, or ``jobs`` is not positive.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f'--jobs must be at least 1, got {jobs}')
    import torch
    there = torch.cuda.device_count()
    for gpu in gpus or ():
        # A training would silently take the CPU.
        if not 0 <= gpu < there or list(gpus).count(gpu) > 1:
            raise ValueError(f'--gpus {" ".join(map(str, gpus))}: ' + (
                f'{gpu} is there twice' if 0 <= gpu < there else
                f'there is no GPU {gpu}; ' + (f'they are 0 to {there - 1}' if there else 'torch sees none')))
    gpus = range(there) if gpus is None else gpus
    if gpus:
        groups = [list(gpus[start:start + processes]) for start in range(0, len(gpus) - processes + 1, processes)]
        if not groups:
            raise ValueError(f'a training needs {processes} GPUs, and there are {len(gpus)}; see --gpus-per-run')
        return [dict(gpus=groups[job % len(groups)]) for job in range(jobs or len(groups))]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(os.cpu_count() or 1))
    jobs = jobs or max(1, len(cores) // processes)
    share = max(1, len(cores) // jobs)
    return [dict(cores=[cores[(job * share + core) % len(cores)] for core in range(share)]) for job in range(jobs)]


@dataclass
class _Job:
    """A group in a process that this one started, and what it may use."""
    group: List[Run]
    process: subprocess.Popen
    device: dict


def execute(runs: Sequence[Run], devices: Sequence[dict], watch: Callable[[Dict[Run, str]], None],
            pause: float = 0.5) -> Dict[Run, str]:
    """Train what is not done, as many at a time as there are devices.

    Runs that share their batches are one training, see :func:`~mmat.reproduce.joint_runs.split_into_jobs`. A training that fails
    holds up its students only. Those that this process started end with it.

    Args:
        runs (Sequence[Run]): Teachers before their students, and seed by seed, in the order in which to begin them.
        devices (Sequence[dict]): What each may use, see :func:`assign_devices`.
        watch (Callable): Called with the state of every run, again and again.
        pause (float): Seconds between two looks. Defaults to 0.5.

    Returns:
        dict: Run -> what became of it: 'done', 'failed', or 'blocked' where its teacher failed.

    Raises:
        ValueError, OSError: As :meth:`~mmat.reproduce.run.Run.prepare`.
    """
    free, jobs, groups = list(devices), [], split_into_jobs(runs)
    for run in runs:
        run.check()  # all of them, before anything is written
    for run in runs:
        run.prepare()
    states = {run: DONE if run.result else RUNNING if run.is_running else WAITING for run in runs}
    # Under nohup the end of the terminal means nothing.
    stop = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        watch(states)
        while any(state in (WAITING, RUNNING) for state in states.values()):
            _look(states, jobs, free)
            # Only now, so that what is free goes to the first in the order.
            for group in groups:
                _begin(group, states, jobs, free)
            watch(states)
            time.sleep(pause)
    finally:
        for number, handler in stop.items():
            signal.signal(number, handler)
        for job in jobs:
            job.process.terminate()
        for job in jobs:
            job.process.wait()
    return states


def _look(states: Dict[Run, str], jobs: List[_Job], free: List[dict]) -> None:
    """What has become of what runs, here and elsewhere."""
    for job in [job for job in jobs if job.process.poll() is not None]:
        jobs.remove(job)
        free.insert(0, job.device)
        for run in job.group:
            # Where only the job was killed, its training goes on, and is looked after like a stranger's.
            states[run] = DONE if run.result else RUNNING if run.is_running else FAILED
    own = [run for job in jobs for run in job.group]
    for run, state in states.items():
        if state == RUNNING and run not in own and not run.is_running:
            # Begun by an earlier call of this tool, or beside it on another machine.
            states[run] = DONE if run.result else FAILED if run.failure else WAITING


def _begin(group: List[Run], states: Dict[Run, str], jobs: List[_Job], free: List[dict]) -> None:
    """Start what waits of a group, where it can be."""
    waiting = [run for run in group if states[run] == WAITING]
    teacher = states.get(group[0].teacher, DONE)
    if waiting and teacher in (FAILED, BLOCKED):
        states.update(dict.fromkeys(waiting, BLOCKED))
    elif waiting and teacher == DONE and free:
        states.update({run: RUNNING for run in waiting if run.is_running})
        # While somebody else has a part of it the others wait, to be trained together.
        if not any(states[run] == RUNNING for run in group):
            device, together = free.pop(0), resumable_together(waiting)
            jobs.append(_Job(together, start(together, device), device))
            states.update(dict.fromkeys(together, RUNNING))


def _interrupt(number, frame):
    raise KeyboardInterrupt
