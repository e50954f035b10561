"""A run: one training of a table, with its state on disk."""
import fcntl
import json
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional, Sequence

from mmat.errors import ConfigError, FileError, MissingFileError
from mmat.utils.files import write_atomic
from mmat.utils.zoo import zoo_root


@dataclass(eq=False)
class Run:
    """A config trained with a seed in its own work directory.

    The work directory holds ``run.json`` (settings and attempts), ``lock`` (held while a process trains the run),
    ``train.log``, mmengine's logs and checkpoints, and finally ``result.json`` or ``failure.json``. Seeds that share
    batches are trained in one job, see :mod:`mmat.reproduce.joint_runs`; their common ``train.log`` is in the parent
    folder.

    Args:
        work_dir (Path): The work directory.
        config (str): A config file, or a name of the model zoo.
        seed (int): The random seed.
        epochs (int): Number of epochs.
        options (dict): Settings that override the config's, as ``--cfg-options``. Defaults to none.
        teacher (Run, optional): The run whose last checkpoint is the teacher. Defaults to None.
        processes (int): Processes of the training. Defaults to 1.
        config_hash (str, optional): See :func:`mmat.reproduce.recipe.hash_of`. Defaults to None: it is not compared.
        batch_seed (int, optional): The seed of the batches, shared with other seeds of the config. Defaults to None:
            the batches follow from ``seed``.
    """
    work_dir: Path
    config: str
    seed: int
    epochs: int
    options: dict = field(default_factory=dict)
    teacher: Optional['Run'] = None
    processes: int = 1
    config_hash: Optional[str] = None
    batch_seed: Optional[int] = None

    @property
    def name(self) -> str:
        """Name of the config."""
        return self.work_dir.parent.name

    @property
    def label(self) -> str:
        return f'{self.name}, seed {self.seed}'

    @property
    def log(self) -> Path:
        """File for the output of the training."""
        return (self.work_dir if self.batch_seed is None else self.work_dir.parent) / 'train.log'

    # State on disk

    @property
    def result(self) -> Optional[dict]:
        """``result.json``, see :func:`mmat.reproduce.job.write_result`; None until the run is done."""
        return read_json(self.work_dir / 'result.json')

    @property
    def failure(self) -> Optional[dict]:
        """``failure.json``: ``status`` and ``log`` (its last lines) of the last attempt; None if it did not fail."""
        return read_json(self.work_dir / 'failure.json')

    @property
    def record(self) -> dict:
        """``run.json``; empty if the run was never prepared."""
        return read_json(self.work_dir / 'run.json') or {}

    @property
    def is_running(self) -> bool:
        """Whether any process holds the lock."""
        with self.lock() as descriptor:
            return descriptor is None

    def progress(self) -> List[dict]:
        """Return the lines of the JSON logs of all attempts, oldest first."""
        lines = []
        for log in sorted(self.work_dir.glob('*/vis_data/scalars.json')):
            for line in log.read_text().splitlines():
                try:
                    lines.append(json.loads(line))
                except json.JSONDecodeError:  # incomplete: being written, or cut off by a kill
                    continue
        return lines

    @contextmanager
    def lock(self, timeout: float = 0.):
        """Lock the run; yield the lock's file descriptor, or None if another process holds it.

        Child processes that inherit the descriptor hold the lock too. The system releases it when the last of them
        ends, even by SIGKILL.

        Args:
            timeout (float): Seconds to retry, because :attr:`is_running` takes the lock for a moment. Defaults to 0.
        """
        if not self.work_dir.is_dir():
            yield -1
            return
        descriptor = os.open(self.work_dir / 'lock', os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + timeout
        try:
            while not _try_lock(descriptor):
                if time.monotonic() >= deadline:
                    yield None
                    return
                time.sleep(0.05)
            yield descriptor
        finally:
            os.close(descriptor)

    # Preparation

    @property
    def is_outdated(self) -> bool:
        """Whether the config has changed since the run was prepared."""
        recorded = self.record.get('config_hash')
        return None not in (recorded, self.config_hash) and recorded != self.config_hash

    def check(self) -> dict:
        """Return the settings for ``run.json``, after comparing them with the ones on disk.

        Raises:
            ConfigError: The work directory holds a run with other settings or batches, or an unfinished run of a config
                that has changed since.
        """
        settings = dict(config=self.config, seed=self.seed, epochs=self.epochs, options=self.options,
                        processes=self.processes, teacher=self.teacher and os.path.relpath(
                            self.teacher.work_dir, self.work_dir))
        recorded, folder = self.record, repr(str(self.work_dir))
        if recorded and recorded.get('batch_seed') != self.batch_seed:
            raise ConfigError(self._batches_message(recorded.get('batch_seed')))
        if self.batch_seed is not None:
            settings['batch_seed'] = self.batch_seed
        # `config` may be spelled differently: the folder has the config's name.
        differing = [f'{key} is {recorded.get(key)!r}, not {value!r}' for key, value in settings.items()
                     if recorded and key != 'config' and recorded.get(key) != value]
        if differing:
            raise ConfigError(f'{folder} holds a run with other settings: {"; ".join(differing)}. Use another '
                              '--work-dir, or delete the folder.')
        if self.is_outdated and not self.result:
            raise ConfigError(f'The config {self.config} has changed since the unfinished run in {folder} was started. '
                              'Revert the change, or delete the folder.')
        return dict(settings, config_hash=self.config_hash)

    def _batches_message(self, recorded: Optional[int]) -> str:
        folder = repr(str(self.work_dir))
        if None not in (recorded, self.batch_seed):
            return (f'{folder} was started with the batches of seed {recorded}, not {self.batch_seed}. Use another '
                    '--work-dir, or delete the folder.')
        started, other = ('without', 'with') if recorded is None else ('with', 'without')
        return (f'{folder} was started {started} --share-batches and cannot be continued {other} it: the batches would '
                f'differ. Continue {started} --share-batches, use another --work-dir, or delete the folder.')

    def prepare(self) -> None:
        """Write ``run.json`` if there is none.

        Raises:
            ConfigError: See :meth:`check`.
            FileError: The work directory cannot be written to.
        """
        settings = self.check()
        if not self.record:
            try:
                write_json(self.work_dir / 'run.json', dict(settings, attempts=[]))
            except OSError as error:
                raise FileError(f'Cannot write to {str(self.work_dir)!r} ({error.strerror}). Use another '
                                '--work-dir.') from error

    def command(self, tool: str = 'train', together: Sequence[int] = ()) -> List[str]:
        """Return the command line that trains or tests the run.

        Args:
            tool (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
            together (Sequence[int]): Seeds to train in one process, including this run's. Defaults to none: the run is
                trained alone.
        """
        python = [sys.executable]
        if tool == 'train' and self.processes > 1:
            # --standalone chooses a free port, so that runs can be trained side by side.
            python += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={self.processes}']
        command = [*python, str(zoo_root() / 'tools' / f'{tool}.py'), self.config]
        if tool == 'test':
            return [*command, str(self.work_dir), '--work-dir', str(self.work_dir / 'test'), '--out',
                    str(self.work_dir / 'test.json')]
        if together:
            command += ['--work-dir', str(self.work_dir.parent), '--seeds', *map(str, together)]
        else:
            command += ['--work-dir', str(self.work_dir), '--seed', str(self.seed)]
        if self.batch_seed is not None:
            command += ['--batch-seed', str(self.batch_seed)]
        command.append('--resume')
        if self.processes > 1:
            command += ['--launcher', 'pytorch']
        options = self.command_options()
        return [*command, '--cfg-options', *options] if options else command

    def command_options(self, teacher: bool = True) -> List[str]:
        """Return ``options`` as ``KEY=VALUE``, followed by the teacher's checkpoint unless ``teacher`` is False."""
        options = dict(self.options)
        if teacher and self.teacher:
            options['model.teacher.checkpoint'] = str(self.teacher.work_dir)
        # Lists without spaces are one argument; paths keep theirs.
        return [f'{key}={value if isinstance(value, str) else str(value).replace(" ", "")}'
                for key, value in options.items()]


def open_run(work_dir: Path) -> Run:
    """Read a run from its work directory.

    Raises:
        MissingFileError: The folder has no ``run.json``.
    """
    settings = read_json(work_dir / 'run.json')
    if settings is None:
        raise MissingFileError(f'{str(work_dir)!r} is not the work directory of a run: it has no run.json.')
    teacher = open_run(Path(os.path.normpath(work_dir / settings['teacher']))) if settings['teacher'] else None
    return Run(work_dir, settings['config'], settings['seed'], settings['epochs'], settings['options'], teacher,
               settings['processes'], settings.get('config_hash'), settings.get('batch_seed'))


def num_joint_runs(attempt: dict) -> int:
    """Return how many runs were trained in one process, given an item of ``attempts`` in ``run.json``."""
    return len(attempt.get('seeds', ())) or 1


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_json(path: Path) -> Optional[dict]:
    """Read a JSON file; return None if it does not exist.

    Raises:
        FileError: The file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:  # invalid JSON, or invalid UTF-8
        damaged = f'the folder {str(path.parent)!r}' if path.name == 'run.json' else 'the file'
        raise FileError(f'{str(path)!r} is damaged ({error}). Delete {damaged} and run the command again.') from error


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file atomically."""
    write_atomic(path, json.dumps(content, indent=1).encode())
