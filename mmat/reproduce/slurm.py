"""The trainings of a table as jobs of a Slurm cluster, submitted and watched through submitit."""
import fcntl
import io
import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager, redirect_stderr
from difflib import get_close_matches
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from .joint_runs import start
from .pool import BLOCKED, DONE, FAILED, RUNNING, WAITING
from .run import Run, open_run, read_json, write_json

# What may be asked of Slurm, in submitit's names: those of sbatch, but for time and memory in numbers.
OPTIONS = dict(
    partition=str, account=str, qos=str, timeout_min=int, mem_gb=float, mem_per_cpu=str, mem_per_gpu=str,
    cpus_per_task=int, gpus_per_node=int, gres=str, constraint=str, nodelist=str, exclude=str, name=str, comment=str,
    mail_type=str, mail_user=str, wckey=str, setup=str, signal_delay_s=int, max_num_timeout=int)
# Short jobs find a gap sooner, and one whose time is up is begun again where it was: in all, three and a half days.
DEFAULTS = dict(name='mmat', timeout_min=240, max_num_timeout=20)
CPUS_PER_PROCESS = 4
# Those of them that submitit has for all kinds of clusters; the others are Slurm's.
_SHARED = ('name', 'timeout_min', 'mem_gb', 'cpus_per_task', 'gpus_per_node')
_KINDS = {int: 'a whole number', float: 'a number', str: 'text'}

# Seconds until what one node writes is seen by another: network file systems remember for up to a minute.
PATIENCE = 90
# Seconds in which Slurm's accounting hears of a job.
HEARSAY = 600
# Slurm's words for jobs that wait, and for those that will never run again, as sacct's manual has them; submitit's for
# local ones.
_QUEUED = ('PENDING', 'REQUEUED', 'UNKNOWN')
_OVER = ('BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED', 'NODE_FAIL', 'OUT_OF_MEMORY', 'PREEMPTED',
         'REVOKED', 'TIMEOUT', 'FINISHED', 'INTERRUPTED', 'NO PROCESS AND NO RESULT')


class Training:
    """What a job does: train a run in a process of its own, as on one machine. submitit pickles it.

    Args:
        work_dir (Path): The run's folder.
    """

    def __init__(self, work_dir: Path):
        self.work_dir = work_dir
        self.process = None

    def __call__(self) -> None:
        """Train what is left.

        Raises:
            RuntimeError: The training failed, or may not begin: the job is not the one that is written down for the
                run, or its teacher has no result. Slurm then takes the job as failed.
        """
        from submitit import JobEnvironment
        run, job = open_run(self.work_dir), JobEnvironment().job_id
        # Whoever submitted it may have been killed before writing that down, and then there is another one.
        if not _seen(lambda: _noted(run).get('id') == job, run.work_dir):
            raise RuntimeError(f'{str(run.work_dir / "job.json")!r} does not name job {job}: another one trains it')
        if run.teacher and not _seen(lambda: run.teacher.result, run.teacher.work_dir):
            raise RuntimeError(f'the teacher of {run.label}, {run.teacher.label}, has no result in '
                               f'{str(run.teacher.work_dir)!r}; do all nodes share this folder?')
        cores = os.environ.get('SLURM_CPUS_PER_TASK')
        if cores:
            # On clusters that do not bind jobs to their cores, torch would take all of the node's.
            os.environ.setdefault('OMP_NUM_THREADS', str(max(1, int(cores) // run.processes)))
        self.process = start([run])
        status = self.process.wait()
        if status and run.failure is None:
            # By a signal. Where that was for the whole job, submitit gets it too, and begins the job again.
            time.sleep(5)
        if status:
            raise RuntimeError(f'{run.label} ended with status {status}; see {str(run.work_dir / "train.log")!r}')

    def checkpoint(self):
        """Stop the training, whose time is up or whose node is wanted; it goes on from its last checkpoint.

        Returns:
            submitit.helpers.DelayedSubmission: What to do when the job is begun again.
        """
        from submitit.helpers import DelayedSubmission
        if self.process is not None:
            self.process.terminate()
            try:
                # Not `wait`, which this signal has interrupted and which lets in one at a time.
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:  # it was over
                pass
        return DelayedSubmission(Training(self.work_dir))


def execute_on_slurm(runs: Sequence[Run], watch: Callable[[Dict[Run, str]], None], folder: Path,
                     jobs: Optional[int] = None, options: Optional[dict] = None, cluster: str = 'slurm',
                     pause: float = 10.) -> Dict[Run, str]:
    """Submit what is not done, and watch it to the end.

    Runs that may begin together are one job array. Students are submitted with their teachers and depend on the one
    job that trains theirs; if that fails, Slurm takes them out of the queue. A job that runs out of time, or is
    preempted in a way that Slurm announces by the same signal, puts itself back into the queue.

    Jobs do not need this process. Called again, it finds those that wait or run (``job.json`` of a run has the job) and
    submits what failed, was cancelled or ran out of time for good. Jobs get this process's working directory,
    environment and Python.

    All nodes must see the folders of the runs under the same path. That two jobs never train one run rests on
    ``job.json``, since only the job that it names begins, and needs no lock between machines. flock must work all the
    same, see :meth:`Run.lock <mmat.reproduce.run.Run.lock>`; where it does between machines, as on NFS, trainings
    outside of Slurm are noticed too, and two calls of the tool may even submit at the same time.

    Args:
        runs (Sequence[Run]): Teachers before their students, in the order in which to begin them.
        watch (Callable): Called with the state of every run, again and again.
        folder (Path): For what submitit keeps: scripts, pickled jobs and their output.
        jobs (int, optional): How many jobs of an array run at a time. Defaults to None: as many as the cluster lets.
        options (dict, optional): What to ask of Slurm for a job, out of :data:`OPTIONS`; numbers may be text.
            Defaults to None: four hours (``timeout_min``) that may be taken twenty times more, on 4 CPUs for each
            process, and no GPU. ``gpus_per_node`` must be the number of processes that share a training.
        cluster (str): 'slurm', or 'local' for processes of this machine, as a trial. Defaults to 'slurm'.
        pause (float): Seconds between two looks at the folders. Defaults to 10. Slurm is asked once a minute.

    Returns:
        dict: Run -> what became of it: 'done', 'failed', or 'blocked' where its teacher failed.

    Raises:
        ValueError: An option is not one, or contradicts the runs; or as :meth:`~mmat.reproduce.run.Run.check`.
        ImportError: submitit is not installed.
        FileNotFoundError: This machine does not belong to a Slurm cluster.
        RuntimeError: Slurm does not take a job, or does not know one.
    """
    options = check_options(options or {}, runs)
    if jobs is not None and jobs < 1:
        raise ValueError(f'--jobs must be at least 1, got {jobs}')
    for run in runs:
        run.check()  # all of them, before anything is written
    queue = _Queue(Path(folder), cluster, jobs, options)
    for run in runs:
        run.prepare()
    states = dict.fromkeys(runs, WAITING)
    try:
        while True:
            for run in runs:
                states[run] = _look(run, states, queue)
            if any(state == WAITING and run not in queue.jobs for run, state in states.items()):
                _submit_waiting(states, queue)
            watch(states)
            if not any(state in (WAITING, RUNNING) for state in states.values()):
                return states
            time.sleep(pause)
    except KeyboardInterrupt:
        left = [job.job_id for run, job in queue.jobs.items() if states[run] in (WAITING, RUNNING)]
        if left:
            print('The jobs go on, and the same command watches them again. To cancel them: '
                  f'{"scancel" if cluster == "slurm" else "kill -INT"} {" ".join(left)}', file=sys.stderr)
        raise


def check_options(options: dict, runs: Sequence[Run] = ()) -> dict:
    """Hold what is asked of Slurm against what can be, and against the runs.

    Args:
        options (dict): Name -> value, or its text as a command line has it.
        runs (Sequence[Run]): What the jobs are for. Defaults to none.

    Returns:
        dict: With numbers as numbers.

    Raises:
        ValueError: One is unknown, no number, or not what the runs need.
    """
    checked = {}
    for key, value in options.items():
        if key not in OPTIONS:
            close = get_close_matches(key, OPTIONS, n=3, cutoff=0.4) or sorted(OPTIONS)
            raise ValueError(f'--slurm {key}: there is no such option; the closest are {", ".join(close)} (others go '
                             "into sbatch's environment, such as SBATCH_RESERVATION)")
        try:
            checked[key] = OPTIONS[key](value)
        except (TypeError, ValueError):
            checked[key] = None
        if checked[key] in (None, '') or OPTIONS[key] is not str and not checked[key] > 0:
            kind = _KINDS[OPTIONS[key]]
            raise ValueError(f'--slurm {key}={value}: expected {kind}{" above 0" if kind != "text" else ""}')
    for run in runs:
        if checked.get('gpus_per_node', run.processes) != run.processes:
            raise ValueError(f'--slurm gpus_per_node={checked["gpus_per_node"]}: {run.processes} '
                             f'{"process shares" if run.processes == 1 else "processes share"} a training '
                             '(--gpus-per-run), each with a GPU of its own')
    return checked


def _look(run: Run, states: Dict[Run, str], queue: '_Queue') -> str:
    """The state of a run by what is on disk, and by Slurm where that does not tell."""
    if states[run] == DONE or run.result:
        return DONE
    if states.get(run.teacher) in (FAILED, BLOCKED):
        return BLOCKED
    if run in queue.elsewhere:
        if run.is_running:
            return RUNNING
        queue.elsewhere.remove(run)
        return DONE if run.result else FAILED if run.failure else WAITING
    if run not in queue.jobs:
        return states[run]
    # What it failed with earlier was deleted when the job was submitted.
    if run.failure:
        return FAILED
    word, seconds = queue.state(run)
    if word == 'UNKNOWN' and seconds > HEARSAY:
        number = queue.jobs[run].job_id
        raise RuntimeError(f"Slurm's accounting (sacct) has known nothing of job {number} ({run.label}) for "
                           f'{HEARSAY // 60} minutes. If squeue does not have it either, delete '
                           f'{str(run.work_dir / "job.json")!r}; all jobs go on, and the same command watches them')
    if word not in _OVER:
        return WAITING if word in _QUEUED else RUNNING
    if states.get(run.teacher, DONE) != DONE:
        return WAITING  # cancelled, most likely since its teacher failed, which is not seen yet
    if seconds < PATIENCE and not _seen(lambda: run.result or run.failure, run.work_dir, 0):
        return RUNNING
    if not run.result and not run.failure:
        _write_up(run, word, queue.jobs[run])
    return DONE if run.result else FAILED


def _submit_waiting(states: Dict[Run, str], queue: '_Queue') -> None:
    """Submit what can be, but for what this or another call of the tool has in the queue: that is taken over."""
    with _alone(queue.folder):
        queue.adopt([run for run, state in states.items() if state == WAITING and run not in queue.jobs])
        while True:
            together: Dict[tuple, List[Run]] = {}
            for run, state in states.items():
                if state == WAITING and run not in queue.jobs and run not in queue.elsewhere:
                    teacher = states.get(run.teacher, DONE)
                    if teacher == DONE:
                        together.setdefault((None, run.processes), []).append(run)
                    elif queue.keeps_order and teacher in (WAITING, RUNNING) and run.teacher in queue.jobs:
                        together.setdefault((queue.jobs[run.teacher].job_id, run.processes), []).append(run)
            if not together:
                return
            for (after, _), group in together.items():
                queue.submit(group, after)
            if not queue.keeps_order:
                return


class _Queue:
    """The jobs of runs, as far as they are known: submitit's side of it."""

    def __init__(self, folder: Path, cluster: str, parallel: Optional[int], options: dict):
        try:
            import submitit
            from submitit.slurm.slurm import SlurmInfoWatcher
        except ImportError as error:
            raise ImportError("--executor slurm needs submitit: pip install 'mmat[slurm]'") from error
        missing = [name for name in ('sbatch', 'srun', 'sacct') if cluster == 'slurm' and not shutil.which(name)]
        if missing:
            raise FileNotFoundError(f'--executor slurm: this machine has no {" and no ".join(missing)}; start from a '
                                    "cluster's login node")
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cluster, self.parallel, self.options = cluster, parallel, options
        self.keeps_order = cluster == 'slurm'
        self.jobs: Dict[Run, submitit.Job] = {}
        self.heard: Dict[Run, Tuple[str, float]] = {}
        self.elsewhere: Set[Run] = set()
        # submitit's own asks every ten minutes only.
        self.watcher = SlurmInfoWatcher(delay_s=60)
        # sacct would shorten long lists of tasks, and submitit could not read them.
        os.environ.setdefault('SLURM_BITSTR_LEN', '0')

    def adopt(self, runs: Sequence[Run]) -> None:
        """Take over what is in the queue, or being trained elsewhere; teachers come before their students."""
        notes = {run: _noted(run) for run in runs}
        for note in notes.values():
            # All at once, since Slurm is asked for each that is new.
            if note.get('cluster') == 'slurm':
                self.watcher.register_job(note['id'])
        for run, note in notes.items():
            if note.get('cluster') == self.cluster and not run.failure:
                self.jobs[run] = self._job(run, note)
                if self._word(run) in _OVER:
                    del self.jobs[run]
                elif run.teacher and not run.teacher.result and (
                        run.teacher not in self.jobs or self.jobs[run.teacher].job_id != note['after']):
                    # It waits for a job that failed.
                    self.jobs.pop(run).cancel(check=False)
            if run not in self.jobs and run.is_running:
                self.elsewhere.add(run)

    def submit(self, group: List[Run], after: Optional[str]) -> None:
        """Submit runs as one array, of which each job begins when ``after`` is done, and write down their jobs."""
        if not self.keeps_order:
            # Nor does it hold back.
            running = sum(self._word(run) not in _OVER for run in self.jobs)
            group = group[:max(0, (self.parallel or 1) - running)]
            if not group:
                return
        for run in group:
            (run.work_dir / 'failure.json').unlink(missing_ok=True)
            (run.work_dir / 'job.json').unlink(missing_ok=True)
        executor = self._executor(group[0].processes, after)
        try:
            with redirect_stderr(io.StringIO()):  # it prints what it raises
                jobs = executor.submit_array([Training(run.work_dir.absolute()) for run in group])
        except RuntimeError as error:
            raise RuntimeError(f'Slurm does not take {group[0].label}: {" ".join(str(error).split())}. See --slurm; '
                               'what it took before goes on') from error
        for run, job in zip(group, jobs):
            write_json(run.work_dir / 'job.json', dict(
                id=job.job_id, cluster=self.cluster, after=after, folder=os.path.relpath(self.folder, run.work_dir)))
            self.jobs[run] = job
            self.watcher.register_job(job.job_id)
            self.heard.pop(run, None)

    def state(self, run: Run) -> Tuple[str, float]:
        """Slurm's word for the job of a run, and for how many seconds it has been that."""
        word, now = self._word(run), time.monotonic()
        if self.heard.get(run, ('', 0))[0] != word:
            self.heard[run] = word, now
        return word, now - self.heard[run][1]

    def _word(self, run: Run) -> str:
        job = self.jobs[run]
        if self.cluster == 'slurm':
            return self.watcher.get_state(job.job_id).split(' by ')[0].rstrip('+')  # 'CANCELLED by 1000'
        # What another process of the tool started is known by the lock only.
        return 'RUNNING' if job.state.startswith('NO PROCESS') and run.is_running else job.state

    def _job(self, run: Run, note: dict):
        from submitit import LocalJob, SlurmJob
        kind = SlurmJob if self.cluster == 'slurm' else LocalJob
        return kind(folder=os.path.normpath(run.work_dir / note['folder']), job_id=note['id'])

    def _executor(self, processes: int, after: Optional[str]):
        from submitit import AutoExecutor
        settings = {**DEFAULTS, 'cpus_per_task': CPUS_PER_PROCESS * processes, **self.options}
        executor = AutoExecutor(self.folder, self.cluster, **{
            f'{self.cluster}_max_num_timeout': settings.pop('max_num_timeout')})
        more = dict(requeue=True)
        if after:
            settings['dependency'] = f'afterok:{after}'
            more['kill-on-invalid-dep'] = 'yes'
        if 'setup' in settings:
            settings['setup'] = [settings['setup']]
        settings.update(
            array_parallelism=self.parallel, additional_parameters=more,
            # From Slurm 22.05 on srun does not have this from sbatch, and would keep a training on one core.
            srun_args=[f'--cpus-per-task={settings["cpus_per_task"]}'])
        executor.update_parameters(nodes=1, tasks_per_node=1, **{
            key if key in _SHARED else f'slurm_{key}': value for key, value in settings.items()})
        return executor


def _noted(run: Run) -> dict:
    return read_json(run.work_dir / 'job.json') or {}


def _seen(find: Callable[[], object], folder: Path, seconds: Optional[float] = None) -> object:
    """What ``find`` gives, as soon as that is something, or at last."""
    end = time.monotonic() + (PATIENCE if seconds is None else seconds)
    while True:
        os.listdir(folder)  # network file systems then look again
        found = find()
        if found or time.monotonic() >= end:
            return found
        time.sleep(1)


def _write_up(run: Run, word: str, job) -> None:
    """Leave the ``failure.json`` that a training leaves which is not killed with all that watches it."""
    def end(path, count):
        return path.read_text(errors='replace').splitlines()[-count:] if path.is_file() else []

    # By itself, or by what ends everything.
    status = 1 if word in ('FAILED', 'COMPLETED', 'FINISHED') else -signal.SIGKILL
    write_json(run.work_dir / 'failure.json', dict(status=status, log=[
        *end(run.work_dir / 'train.log', 8), f'Slurm says {word} of job {job.job_id}, whose output ends with:',
        *end(job.paths.stderr, 8)]))


@contextmanager
def _alone(folder: Path):
    """Nobody else submits meanwhile."""
    with open(folder / 'lock', 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
