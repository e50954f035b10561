"""The runs of a job: a single run, or seeds of a config that share batches and the teacher's forward pass."""
import os
import subprocess
import sys
from typing import Dict, List, Optional, Sequence

from mmat.errors import CheckpointError
from mmat.utils.work_dirs import common_checkpoint

from .run import Run


def split_into_jobs(runs: Sequence[Run]) -> List[List[Run]]:
    """Split runs into jobs: runs of a config with the same shared batches and teacher together, all others alone.

    Args:
        runs (Sequence[Run]): In training order.

    Returns:
        list[list[Run]]: The runs of each job, in the order of their first runs.
    """
    jobs: Dict[object, List[Run]] = {}
    for run in runs:
        teacher = run.teacher and run.teacher.work_dir
        shared = (run.work_dir.parent, run.batch_seed, teacher)
        jobs.setdefault(run if run.batch_seed is None else shared, []).append(run)
    return list(jobs.values())


def resumable_together(runs: Sequence[Run]) -> List[Run]:
    """Return the first run, and those that can start with it: from a common checkpoint, or all from scratch."""
    together = [runs[0]]
    for run in runs[1:]:
        try:
            common_checkpoint([each.work_dir for each in (*together, run)])
        except CheckpointError:  # e.g. a seed that was added when the others were half trained
            continue
        together.append(run)
    return together


def split_by_failure(runs: Sequence[Run]) -> List[List[Run]]:
    """Split failed runs by job and failure: joint runs that failed with the same log are one item."""
    same: Dict[tuple, List[Run]] = {}
    for number, job in enumerate(split_into_jobs(runs)):
        for run in job:
            same.setdefault((number, repr(run.failure)), []).append(run)
    return list(same.values())


def joint_label(runs: Sequence[Run]) -> str:
    """Return a label such as 'wrn16-1_1xb10_digits, seeds 0, 1, 2'."""
    if len(runs) == 1:
        return runs[0].label
    return f'{runs[0].name}, seeds {", ".join(str(run.seed) for run in runs)}'


def training_command(runs: Sequence[Run]) -> List[str]:
    """Return the command line that trains the runs of a job."""
    return runs[0].command(together=[run.seed for run in runs] if len(runs) > 1 else ())


def start_job(runs: Sequence[Run], device: Optional[dict] = None) -> subprocess.Popen:
    """Start a job in a separate process, which stops when this one ends.

    Args:
        runs (Sequence[Run]): One item of :func:`split_into_jobs`.
        device (dict, optional): ``gpus``, indices among the GPUs that this process may use, or ``cores``, numbers of
            CPU cores. Defaults to None: all.
    """
    for run in runs:
        run.prepare()
    device = device or {}
    environment = dict(os.environ)
    cores = device.get('cores')
    if device.get('gpus') is not None:
        names = environment.get('CUDA_VISIBLE_DEVICES')
        environment['CUDA_VISIBLE_DEVICES'] = ','.join(
            names.split(',')[number] if names else str(number) for number in device['gpus'])
    if cores:
        environment['OMP_NUM_THREADS'] = str(max(1, len(cores) // runs[0].processes))
    # Passed explicitly: this process may be gone before the job first calls getppid.
    command = [sys.executable, '-m', 'mmat.reproduce.job', *(str(run.work_dir) for run in runs),
               '--parent', str(os.getpid())]
    with open(runs[0].log, 'a') as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    if cores and hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(process.pid, cores)
    return process
