"""Train runs as jobs of a Slurm cluster, submitted and watched through submitit."""
import fcntl
import io
import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from mmat.errors import ConfigError, MissingFileError, MissingPackageError, UserError, did_you_mean

from .joint_runs import start_job
from .run import Run, open_run, read_json, write_json
from .states import BLOCKED, DONE, FAILED, RUNNING, WAITING

# Options for Slurm, by submitit's names: sbatch's, except for time and memory in numbers.
OPTIONS = dict(
    partition=str, account=str, qos=str, timeout_min=int, mem_gb=float, mem_per_cpu=str, mem_per_gpu=str,
    cpus_per_task=int, gpus_per_node=int, gres=str, constraint=str, nodelist=str, exclude=str, name=str, comment=str,
    mail_type=str, mail_user=str, wckey=str, setup=str, signal_delay_s=int, max_num_timeout=int)
# Short jobs start earlier. A job that times out is requeued and resumes, up to three and a half days in total.
DEFAULTS = dict(name='mmat', timeout_min=240, max_num_timeout=20)
CPUS_PER_PROCESS = 4
# Options that submitit has for all kinds of clusters.
_SHARED = ('name', 'timeout_min', 'mem_gb', 'cpus_per_task', 'gpus_per_node')
_KINDS = {int: 'a whole number', float: 'a number', str: 'text'}

# Seconds until other nodes see a written file: network file systems cache for up to a minute.
FILE_DELAY = 90
# Seconds until Slurm's accounting must know a submitted job.
ACCOUNTING_DELAY = 600
# Slurm's states of jobs that wait and that have ended, as in sacct's manual, and submitit's states of local jobs.
_QUEUED = ('PENDING', 'REQUEUED', 'UNKNOWN')
_ENDED = ('BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED', 'NODE_FAIL', 'OUT_OF_MEMORY', 'PREEMPTED',
          'REVOKED', 'TIMEOUT', 'FINISHED', 'INTERRUPTED', 'NO PROCESS AND NO RESULT')


class Training:
    """The function of a Slurm job: train a run in a separate process, as on a single machine. submitit pickles it.

    Args:
        work_dir (Path): The run's work directory.
    """

    def __init__(self, work_dir: Path):
        self.work_dir = work_dir
        self.process = None

    def __call__(self) -> None:
        """Train the run, unless it is done.

        Raises:
            RuntimeError: The training failed, the teacher has no result, or ``job.json`` names another job for the run.
                Slurm then marks the job as failed.
        """
        from submitit import JobEnvironment
        run, job = open_run(self.work_dir), JobEnvironment().job_id
        # If the tool was killed before it wrote job.json, the run was submitted again in another job.
        if not _wait_for(lambda: _read_job(run).get('id') == job, run.work_dir):
            raise RuntimeError(f'{str(run.work_dir / "job.json")!r} does not name job {job}. Another job trains '
                               f'{run.label}.')
        if run.teacher and not _wait_for(lambda: run.teacher.result, run.teacher.work_dir):
            raise RuntimeError(f'The teacher of {run.label} ({run.teacher.label}) has no result in '
                               f'{str(run.teacher.work_dir)!r}. All nodes must share this folder.')
        cores = os.environ.get('SLURM_CPUS_PER_TASK')
        if cores:
            # Where Slurm does not bind jobs to cores, torch would use all cores of the node.
            os.environ.setdefault('OMP_NUM_THREADS', str(max(1, int(cores) // run.processes)))
        self.process = start_job([run])
        status = self.process.wait()
        if status and run.failure is None:
            # Ended by a signal. If it was sent to the whole job, submitit receives it now, and requeues the job.
            time.sleep(5)
        if status:
            raise RuntimeError(f'{run.label} ended with status {status}. See {str(run.work_dir / "train.log")!r}.')

    def checkpoint(self):
        """Stop the training on a timeout or preemption; it resumes from its last checkpoint.

        Returns:
            submitit.helpers.DelayedSubmission: The function of the requeued job.
        """
        from submitit.helpers import DelayedSubmission
        if self.process is not None:
            self.process.terminate()
            try:
                # Not `wait`, which this signal has interrupted while it held a lock.
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:  # it had already ended
                pass
        return DelayedSubmission(Training(self.work_dir))


def execute_on_slurm(runs: Sequence[Run], watch: Callable[[Dict[Run, str]], None], folder: Path,
                     jobs: Optional[int] = None, options: Optional[dict] = None, cluster: str = 'slurm',
                     pause: float = 10.) -> Dict[Run, str]:
    """Submit the runs that are not done, and wait until they end.

    Runs that can start at the same time are one job array. Students are submitted with their teachers and depend on
    the teacher's job; if it fails, Slurm removes them from the queue. A job that times out, or that Slurm preempts with
    the same signal, is requeued.

    Jobs do not need this process. If it is called again, it finds the jobs that wait or run (a run's ``job.json`` names
    its job), and resubmits those that failed, were cancelled or timed out for good. Jobs inherit the working directory,
    environment and Python of this process.

    All nodes must see the work directories under the same path. Only the job that ``job.json`` names trains a run, so
    no run is trained twice, even without locks between machines. flock must still work on each machine, see
    :meth:`Run.lock <mmat.reproduce.run.Run.lock>`. Where it works between machines, as on NFS, trainings outside Slurm
    are detected too, and several calls of the tool may submit at the same time.

    Args:
        runs (Sequence[Run]): In training order: teachers before their students.
        watch (Callable): Called with the states of all runs after each poll.
        folder (Path): Folder for submitit's scripts, pickled jobs and their output.
        jobs (int, optional): Number of simultaneous jobs of an array. Defaults to None: no limit.
        options (dict, optional): Slurm options, see :data:`OPTIONS`; numbers may be text. Defaults to None: four hours
            (``timeout_min``), up to twenty requeues after timeouts, 4 CPUs for each process, and no GPU.
            ``gpus_per_node`` must be the number of processes of each training.
        cluster (str): 'slurm', or 'local' for processes of this machine, as a trial. Defaults to 'slurm'.
        pause (float): Seconds between two polls of the folders. Defaults to 10. Slurm is polled once a minute.

    Returns:
        dict: Run -> 'done', 'failed', or 'blocked' if its teacher failed.

    Raises:
        ConfigError: An option is unknown, invalid or contradicts the runs, ``jobs`` is not positive, or as for
            :meth:`~mmat.reproduce.run.Run.check`.
        MissingPackageError: submitit is not installed.
        MissingFileError: Slurm's commands are not installed on this machine.
        UserError: Slurm refuses a job, or does not know one.
    """
    options = check_options(options or {}, runs)
    if jobs is not None and jobs < 1:
        raise ConfigError(f'--jobs must be at least 1, got {jobs}.')
    for run in runs:
        run.check()  # all of them before anything is written
    queue = _Queue(Path(folder), cluster, jobs, options)
    for run in runs:
        run.prepare()
    states = dict.fromkeys(runs, WAITING)
    try:
        while True:
            for run in runs:
                states[run] = _find_state(run, states, queue)
            if any(state == WAITING and run not in queue.jobs for run, state in states.items()):
                _submit_waiting(states, queue)
            watch(states)
            if not any(state in (WAITING, RUNNING) for state in states.values()):
                return states
            time.sleep(pause)
    except KeyboardInterrupt:
        left = [job.job_id for run, job in queue.jobs.items() if states[run] in (WAITING, RUNNING)]
        if left:
            print('The jobs continue. Run the same command to watch them again, or cancel them: '
                  f'{"scancel" if cluster == "slurm" else "kill -INT"} {" ".join(left)}', file=sys.stderr)
        raise


def check_options(options: dict, runs: Sequence[Run] = ()) -> dict:
    """Check Slurm options, and convert their values.

    Args:
        options (dict): Name -> value, or its text from a command line.
        runs (Sequence[Run]): The runs to train. Defaults to none.

    Returns:
        dict: Name -> value.

    Raises:
        ConfigError: An option is unknown, has an invalid value, or contradicts the runs.
    """
    checked = {}
    for key, value in options.items():
        if key not in OPTIONS:
            hint = did_you_mean(key, OPTIONS) or f' Choose from {", ".join(OPTIONS)}.'
            raise ConfigError(f'--slurm: unknown option {key!r}.{hint} Other sbatch options can be set in the '
                              'environment, such as SBATCH_RESERVATION.')
        try:
            checked[key] = OPTIONS[key](value)
        except (TypeError, ValueError):
            checked[key] = None
        if checked[key] in (None, '') or OPTIONS[key] is not str and not checked[key] > 0:
            kind = _KINDS[OPTIONS[key]]
            raise ConfigError(f'--slurm {key} must be {kind}{" above 0" if kind != "text" else ""}, got {value!r}.')
    for run in runs:
        if checked.get('gpus_per_node', run.processes) != run.processes:
            raise ConfigError(f'--slurm gpus_per_node must be the number of processes per training (--gpus-per-run), '
                              f'{run.processes}, got {checked["gpus_per_node"]}.')
    return checked


def _find_state(run: Run, states: Dict[Run, str], queue: '_Queue') -> str:
    """Find the state of a run from its files, or else from Slurm."""
    if states[run] == DONE or run.result:
        return DONE
    if states.get(run.teacher) in (FAILED, BLOCKED):
        return BLOCKED
    if run in queue.external:
        if run.is_running:
            return RUNNING
        queue.external.remove(run)
        return DONE if run.result else FAILED if run.failure else WAITING
    if run not in queue.jobs:
        return states[run]
    # Failures of earlier attempts were deleted on submission.
    if run.failure:
        return FAILED
    slurm_state, seconds = queue.state(run)
    if slurm_state == 'UNKNOWN' and seconds > ACCOUNTING_DELAY:
        number = queue.jobs[run].job_id
        raise UserError(f"Slurm's accounting (sacct) has not listed job {number} ({run.label}) for "
                        f'{ACCOUNTING_DELAY // 60} minutes. If squeue does not list it either, delete '
                        f'{str(run.work_dir / "job.json")!r}. Run the same command to watch the other jobs, which '
                        'continue.')
    if slurm_state not in _ENDED:
        return WAITING if slurm_state in _QUEUED else RUNNING
    if states.get(run.teacher, DONE) != DONE:
        return WAITING  # probably cancelled because its teacher failed, which is not visible here yet
    if seconds < FILE_DELAY and not _wait_for(lambda: run.result or run.failure, run.work_dir, 0):
        return RUNNING
    if not run.result and not run.failure:
        _write_failure(run, slurm_state, queue.jobs[run])
    return DONE if run.result else FAILED


def _submit_waiting(states: Dict[Run, str], queue: '_Queue') -> None:
    """Submit all runs whose teacher is done or submitted, except those that are already in the queue."""
    with _submission_lock(queue.folder):
        queue.adopt([run for run, state in states.items() if state == WAITING and run not in queue.jobs])
        while True:
            arrays: Dict[tuple, List[Run]] = {}
            for run, state in states.items():
                if state == WAITING and run not in queue.jobs and run not in queue.external:
                    teacher = states.get(run.teacher, DONE)
                    if teacher == DONE:
                        arrays.setdefault((None, run.processes), []).append(run)
                    elif queue.has_dependencies and teacher in (WAITING, RUNNING) and run.teacher in queue.jobs:
                        arrays.setdefault((queue.jobs[run.teacher].job_id, run.processes), []).append(run)
            if not arrays:
                return
            for (after, _), together in arrays.items():
                queue.submit(together, after)
            if not queue.has_dependencies:
                return


class _Queue:
    """The known jobs of runs, and the interface to submitit."""

    def __init__(self, folder: Path, cluster: str, parallel: Optional[int], options: dict):
        try:
            import submitit
            from submitit.slurm.slurm import SlurmInfoWatcher
        except ImportError as error:
            raise MissingPackageError("--executor slurm needs submitit: pip install 'mmat[slurm]'") from error
        missing = [name for name in ('sbatch', 'srun', 'sacct') if cluster == 'slurm' and not shutil.which(name)]
        if missing:
            raise MissingFileError(f'--executor slurm: {", ".join(missing)} not found. Run the command on a login node '
                                   'of the cluster.')
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cluster, self.parallel, self.options = cluster, parallel, options
        self.has_dependencies = cluster == 'slurm'
        self.jobs: Dict[Run, submitit.Job] = {}
        # Last state of each job, and when it was first seen.
        self.last_states: Dict[Run, Tuple[str, float]] = {}
        # Runs that are trained outside Slurm.
        self.external: Set[Run] = set()
        # submitit's default watcher polls every ten minutes.
        self.watcher = SlurmInfoWatcher(delay_s=60)
        # Otherwise sacct abbreviates long lists of array tasks, which submitit cannot parse.
        os.environ.setdefault('SLURM_BITSTR_LEN', '0')

    def adopt(self, runs: Sequence[Run]) -> None:
        """Find runs that are in the queue or trained outside Slurm; teachers must come before their students."""
        notes = {run: _read_job(run) for run in runs}
        for note in notes.values():
            # All first: every new job costs a call of sacct.
            if note.get('cluster') == 'slurm':
                self.watcher.register_job(note['id'])
        for run, note in notes.items():
            if note.get('cluster') == self.cluster and not run.failure:
                self.jobs[run] = self._open_job(run, note)
                if self._slurm_state(run) in _ENDED:
                    del self.jobs[run]
                elif run.teacher and not run.teacher.result and (
                        run.teacher not in self.jobs or self.jobs[run.teacher].job_id != note['after']):
                    # It depends on a job that failed.
                    self.jobs.pop(run).cancel(check=False)
            if run not in self.jobs and run.is_running:
                self.external.add(run)

    def submit(self, runs: List[Run], after: Optional[str]) -> None:
        """Submit runs as one job array that starts when job ``after`` is done, and write ``job.json`` of each."""
        if not self.has_dependencies:
            # The local executor does not limit simultaneous jobs either.
            running = sum(self._slurm_state(run) not in _ENDED for run in self.jobs)
            runs = runs[:max(0, (self.parallel or 1) - running)]
            if not runs:
                return
        for run in runs:
            (run.work_dir / 'failure.json').unlink(missing_ok=True)
            (run.work_dir / 'job.json').unlink(missing_ok=True)
        from submitit.core.utils import FailedJobError
        executor = self._make_executor(runs[0].processes, after)
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints the error that it raises
                jobs = executor.submit_array([Training(run.work_dir.absolute()) for run in runs])
        except FailedJobError as error:
            raise UserError(f'Slurm refused the job of {runs[0].label}: {" ".join(str(error).split())}. Check the '
                            '--slurm options. Jobs submitted before continue.') from error
        for run, job in zip(runs, jobs):
            write_json(run.work_dir / 'job.json', dict(
                id=job.job_id, cluster=self.cluster, after=after, folder=os.path.relpath(self.folder, run.work_dir)))
            self.jobs[run] = job
            self.watcher.register_job(job.job_id)
            self.last_states.pop(run, None)

    def state(self, run: Run) -> Tuple[str, float]:
        """Return Slurm's state of a run's job, and for how many seconds it has been in it."""
        slurm_state, now = self._slurm_state(run), time.monotonic()
        if self.last_states.get(run, ('', 0))[0] != slurm_state:
            self.last_states[run] = slurm_state, now
        return slurm_state, now - self.last_states[run][1]

    def _slurm_state(self, run: Run) -> str:
        job = self.jobs[run]
        if self.cluster == 'slurm':
            return self.watcher.get_state(job.job_id).split(' by ')[0].rstrip('+')  # 'CANCELLED by 1000'
        # submitit does not know the processes of another call of the tool; the lock shows if they run.
        return 'RUNNING' if job.state.startswith('NO PROCESS') and run.is_running else job.state

    def _open_job(self, run: Run, note: dict):
        from submitit import LocalJob, SlurmJob
        cls = SlurmJob if self.cluster == 'slurm' else LocalJob
        return cls(folder=os.path.normpath(run.work_dir / note['folder']), job_id=note['id'])

    def _make_executor(self, processes: int, after: Optional[str]):
        from submitit import AutoExecutor
        settings = {**DEFAULTS, 'cpus_per_task': CPUS_PER_PROCESS * processes, **self.options}
        executor = AutoExecutor(self.folder, self.cluster, **{
            f'{self.cluster}_max_num_timeout': settings.pop('max_num_timeout')})
        additional = dict(requeue=True)
        if after:
            settings['dependency'] = f'afterok:{after}'
            additional['kill-on-invalid-dep'] = 'yes'
        if 'setup' in settings:
            settings['setup'] = [settings['setup']]
        settings.update(
            array_parallelism=self.parallel, additional_parameters=additional,
            # From Slurm 22.05 on, srun does not inherit it from sbatch, and would use a single core.
            srun_args=[f'--cpus-per-task={settings["cpus_per_task"]}'])
        executor.update_parameters(nodes=1, tasks_per_node=1, **{
            key if key in _SHARED else f'slurm_{key}': value for key, value in settings.items()})
        return executor


def _read_job(run: Run) -> dict:
    return read_json(run.work_dir / 'job.json') or {}


def _wait_for(find: Callable[[], object], folder: Path, seconds: Optional[float] = None) -> object:
    """Call ``find`` until its result is true, at most for some seconds, :data:`FILE_DELAY` by default; return it."""
    end = time.monotonic() + (FILE_DELAY if seconds is None else seconds)
    while True:
        os.listdir(folder)  # refreshes the cache of network file systems
        found = find()
        if found or time.monotonic() >= end:
            return found
        time.sleep(1)


def _write_failure(run: Run, slurm_state: str, job) -> None:
    """Write ``failure.json`` of a training that was killed before it could."""
    def tail(path, count):
        return path.read_text(errors='replace').splitlines()[-count:] if path.is_file() else []

    # In any other state, Slurm killed it.
    status = 1 if slurm_state in ('FAILED', 'COMPLETED', 'FINISHED') else -signal.SIGKILL
    write_json(run.work_dir / 'failure.json', dict(status=status, log=[
        *tail(run.work_dir / 'train.log', 8), f'Slurm reports {slurm_state} for job {job.job_id}. End of its output:',
        *tail(job.paths.stderr, 8)]))


@contextmanager
def _submission_lock(folder: Path):
    """Prevent other processes from submitting."""
    with open(folder / 'lock', 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
