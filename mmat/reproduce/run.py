"""One training of a table. What is on disk is its state."""
import fcntl
import json
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional, Sequence

from mmat.utils.files import write_atomic
from mmat.utils.zoo import zoo_root


@dataclass(eq=False)
class Run:
    """One training: a config with a seed, in a folder of its own.

    In the folder lie ``run.json`` (what is to be trained, and every time that it was begun), ``lock`` (held by the
    processes that train), ``train.log``, mmengine's own logs and checkpoints, and in the end ``result.json`` or
    ``failure.json``. Seeds that share their batches are trained together, see :mod:`mmat.reproduce.joint_runs`; then
    ``train.log`` lies above, beside their folders.

    Args:
        work_dir (Path): The folder.
        config (str): A name of the zoo or a file.
        seed (int): The random seed.
        epochs (int): How many the training has.
        options (dict): Settings that differ from the config's, as ``--cfg-options``. Defaults to none.
        teacher (Run, optional): The training whose last checkpoint teaches this one. Defaults to None.
        processes (int): How many share the training. Defaults to 1.
        config_hash (str, optional): Of what the config says, see :func:`mmat.reproduce.recipe.hash_of`. Defaults to
            None, which equals any.
        batch_seed (int, optional): The seed of the batches, which other seeds of the config have too. Defaults to None:
            they come from ``seed``.
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
        """Where the output of its training goes."""
        return (self.work_dir if self.batch_seed is None else self.work_dir.parent) / 'train.log'

    # What is on disk

    @property
    def result(self) -> Optional[dict]:
        """What :func:`mmat.reproduce.job.measure` wrote; None as long as there is none."""
        return read_json(self.work_dir / 'result.json')

    @property
    def failure(self) -> Optional[dict]:
        """``status`` and ``log`` (its end) of the last time that it was begun, if that failed."""
        return read_json(self.work_dir / 'failure.json')

    @property
    def record(self) -> dict:
        """What ``run.json`` says; empty before the run was first begun."""
        return read_json(self.work_dir / 'run.json') or {}

    @property
    def is_running(self) -> bool:
        """Whether a process holds the run, of this tool or of another."""
        with self.lock() as mine:
            return mine is None

    def progress(self) -> List[dict]:
        """The lines of the run's JSON logs, of all times that it was begun, in the order of writing."""
        lines = []
        for log in sorted(self.work_dir.glob('*/vis_data/scalars.json')):
            for line in log.read_text().splitlines():
                try:
                    lines.append(json.loads(line))
                except json.JSONDecodeError:  # being written right now, or cut off when it was killed
                    continue
        return lines

    @contextmanager
    def lock(self, patience: float = 0.):
        """The run for this process alone: a file descriptor, to be left to children, or None where it is taken.

        The system gives it up when the last process is gone that holds it, however that ends.

        Args:
            patience (float): Seconds to go on trying: whoever asks whether it is taken takes it for a moment. Defaults
                to 0.
        """
        if not self.work_dir.is_dir():
            yield -1
            return
        descriptor = os.open(self.work_dir / 'lock', os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + patience
        try:
            while not _try_lock(descriptor):
                if time.monotonic() >= deadline:
                    yield None
                    return
                time.sleep(0.05)
            yield descriptor
        finally:
            os.close(descriptor)

    # What is to be done

    @property
    def is_outdated(self) -> bool:
        """Whether the config was changed since the run was first begun."""
        there = self.record.get('config_hash')
        return None not in (there, self.config_hash) and there != self.config_hash

    def check(self) -> dict:
        """What is to be trained, as ``run.json`` has it.

        Raises:
            ValueError: The folder holds a training of another kind or with other batches, or its half by a config that
                was changed since.
        """
        spec = dict(config=self.config, seed=self.seed, epochs=self.epochs, options=self.options,
                    processes=self.processes, teacher=self.teacher and os.path.relpath(
                        self.teacher.work_dir, self.work_dir))
        known = self.record
        if known and known.get('batch_seed') != self.batch_seed:
            raise ValueError(self._other_batches(known.get('batch_seed')))
        if self.batch_seed is not None:
            spec['batch_seed'] = self.batch_seed
        # The config may be named otherwise: its name is the folder's.
        differing = [f'{key}: {known[key]!r} there, {value!r} here' for key, value in spec.items()
                     if known and key != 'config' and known.get(key) != value]
        if differing:
            raise ValueError(f'{str(self.work_dir)!r} holds another training ({"; ".join(differing)}); take another '
                             '--work-dir, or delete that folder')
        if self.is_outdated and not self.result:
            raise ValueError(f'the config {self.config} was changed since {str(self.work_dir)!r} was begun; take the '
                             'change back, or delete that folder')
        return dict(spec, config_hash=self.config_hash)

    def _other_batches(self, there: Optional[int]) -> str:
        where = repr(str(self.work_dir))
        if None not in (there, self.batch_seed):
            return (f'{where} has the batches of seed {there}, and those of seed {self.batch_seed} are asked for; take '
                    'another --work-dir, or delete that folder')
        began, other = ('without', 'with') if there is None else ('with', 'without')
        return (f'{where} was begun {began} --share-batches, and cannot go on {other} it: the batches are others. Go '
                f'on {began} it, take another --work-dir, or delete that folder')

    def prepare(self) -> None:
        """Write down what is to be trained, before it is.

        Raises:
            ValueError: As :meth:`check`.
            OSError: The folder cannot be made, or written to.
        """
        spec = self.check()
        if not self.record:
            try:
                write_json(self.work_dir / 'run.json', dict(spec, attempts=[]))
            except OSError as error:
                raise OSError(f'nothing can be written to {str(self.work_dir)!r} ({error.strerror}); take another '
                              '--work-dir') from error

    def command(self, tool: str = 'train', together: Sequence[int] = ()) -> List[str]:
        """The command line that trains it, as one would type it.

        Args:
            tool (str): ``'test'`` for the command line that tests it. Defaults to ``'train'``.
            together (Sequence[int]): Seeds that are trained in one process, this one among them. Defaults to none:
                it is trained alone.
        """
        python = [sys.executable]
        if tool == 'train' and self.processes > 1:
            # A port of its own for each: they run side by side.
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
        """What differs from the config, as ``KEY=VALUE``; the teacher's checkpoint, where it has one, is last."""
        options = dict(self.options)
        if teacher and self.teacher:
            options['model.teacher.checkpoint'] = str(self.teacher.work_dir)
        # Of lists, spaces only tear an argument apart; those of a path are its own.
        return [f'{key}={value if isinstance(value, str) else str(value).replace(" ", "")}'
                for key, value in options.items()]


def open_run(work_dir: Path) -> Run:
    """A run from what is on disk.

    Raises:
        FileNotFoundError: The folder holds none.
    """
    spec = read_json(work_dir / 'run.json')
    if spec is None:
        raise FileNotFoundError(f'{str(work_dir)!r} holds no run of a table: it has no run.json')
    teacher = open_run(Path(os.path.normpath(work_dir / spec['teacher']))) if spec['teacher'] else None
    return Run(work_dir, spec['config'], spec['seed'], spec['epochs'], spec['options'], teacher, spec['processes'],
               spec.get('config_hash'), spec.get('batch_seed'))


def num_joint_runs(attempt: dict) -> int:
    """How many runs were trained in one process, of one of the ``attempts`` of ``run.json``."""
    return len(attempt.get('seeds', ())) or 1


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_json(path: Path) -> Optional[dict]:
    """What a file holds, None where there is none.

    Raises:
        ValueError: It is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        what = f'its folder {str(path.parent)!r}' if path.name == 'run.json' else 'it'
        raise ValueError(f'{str(path)!r} is damaged ({error}); delete {what}, and what it held is made '
                         'again') from error


def write_json(path: Path, content: dict) -> None:
    """Write a file that is whole or not there."""
    write_atomic(path, json.dumps(content, indent=1).encode())
