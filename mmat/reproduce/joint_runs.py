"""What one process trains: a run, or seeds of a config that share their batches and their teacher's forward pass."""
import os
import subprocess
import sys
from typing import Dict, List, Optional, Sequence

from mmat.utils.work_dirs import common_checkpoint

from .run import Run


def split_into_jobs(runs: Sequence[Run]) -> List[List[Run]]:
    """Runs by the process that trains them: those of a config with the same batches and teacher, else each its own.

    Args:
        runs (Sequence[Run]): In the order in which to begin them.

    Returns:
        list[list[Run]]: In the order of their first runs.
    """
    groups: Dict[object, List[Run]] = {}
    for run in runs:
        teacher = run.teacher and run.teacher.work_dir
        shared = (run.work_dir.parent, run.batch_seed, teacher)
        groups.setdefault(run if run.batch_seed is None else shared, []).append(run)
    return list(groups.values())


def resumable_together(group: Sequence[Run]) -> List[Run]:
    """The first of a group, with those that can go on together with it: from one epoch, or from the beginning."""
    together = [group[0]]
    for run in group[1:]:
        try:
            common_checkpoint([each.work_dir for each in (*together, run)])
        except ValueError:  # such as seeds that were added when the others were half trained
            continue
        together.append(run)
    return together


def split_by_failure(runs: Sequence[Run]) -> List[List[Run]]:
    """Failed runs, where several of a group left the same failure these together."""
    alike: Dict[tuple, List[Run]] = {}
    for number, group in enumerate(split_into_jobs(runs)):
        for run in group:
            alike.setdefault((number, repr(run.failure)), []).append(run)
    return list(alike.values())


def joint_label(group: Sequence[Run]) -> str:
    """Such as 'wrn16-1_1xb10_digits, seeds 0, 1, 2'."""
    if len(group) == 1:
        return group[0].label
    return f'{group[0].name}, seeds {", ".join(str(run.seed) for run in group)}'


def training_command(group: Sequence[Run]) -> List[str]:
    """The command line that trains a group, as one would type it."""
    return group[0].command(together=[run.seed for run in group] if len(group) > 1 else ())


def start(group: Sequence[Run], device: Optional[dict] = None) -> subprocess.Popen:
    """Carry a group out in a process of its own, which ends when this one does.

    Args:
        group (Sequence[Run]): One of :func:`split_into_jobs`.
        device (dict, optional): ``gpus``, of those that this process may use, or ``cores``, lists of numbers. Defaults
            to None: all.
    """
    for run in group:
        run.prepare()
    device = device or {}
    environment = dict(os.environ)
    cores = device.get('cores')
    if device.get('gpus') is not None:
        names = environment.get('CUDA_VISIBLE_DEVICES')
        environment['CUDA_VISIBLE_DEVICES'] = ','.join(
            names.split(',')[number] if names else str(number) for number in device['gpus'])
    if cores:
        environment['OMP_NUM_THREADS'] = str(max(1, len(cores) // group[0].processes))
    # Told whose child it is: when it first looks, that may be gone.
    command = [sys.executable, '-m', 'mmat.reproduce.job', *(str(run.work_dir) for run in group),
               '--parent', str(os.getpid())]
    with open(group[0].log, 'a') as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    if cores and hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(process.pid, cores)
    return process
