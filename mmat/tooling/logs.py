"""Readers of the JSON logs of runs, with a line of scalars per logging interval and per validation."""
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple, Union

import numpy as np

from mmat.errors import DataError, MissingFileError, UserError, did_you_mean

# Keys of a line's position in the training.
_POSITION_KEYS = ('step', 'iter', 'epoch')


@dataclass
class Log:
    """The log of one run.

    Attributes:
        name (str): Name of the run's work directory.
        train (list[dict]): Scalars during training, in order; ``step`` counts iterations, ``epoch`` from 1.
        val (list[dict]): Metrics of validations; ``step`` counts epochs, or iterations if there are no epochs.
    """
    name: str
    train: List[dict]
    val: List[dict]

    @property
    def by_epoch(self) -> bool:
        return bool(self.train) and 'epoch' in self.train[0]

    @property
    def keys(self) -> List[str]:
        """Names of the logged scalars."""
        return sorted({key for line in (*self.train, *self.val) for key, value in line.items()
                       if key not in _POSITION_KEYS and isinstance(value, (int, float))})

    def curve(self, key: str) -> Tuple[np.ndarray, np.ndarray]:
        """Return the values of a scalar over the training, from training lines if they have it, else validations.

        Args:
            key (str): One of :attr:`keys`.

        Returns:
            tuple: Epochs (iterations for a run without epochs) and values, two arrays of the same length.

        Raises:
            UserError: The run logs no such scalar. The message suggests similar ones.
        """
        if key not in self.keys:
            hint = did_you_mean(key, self.keys, cutoff=0.5) or f' It logs {", ".join(self.keys)}.'
            raise UserError(f'Run {self.name} logs no {key!r}.{hint}')
        lines, length = [line for line in self.train if key in line], 1
        if not lines:
            lines = [line for line in self.val if key in line]
        elif self.by_epoch:
            # The last step of an epoch is logged and has the highest ratio of step to epoch.
            length = max(line['step'] / line['epoch'] for line in self.train)
        return np.array([line['step'] for line in lines]) / length, np.array([line[key] for line in lines])

    def train_times(self, include_outliers: bool = False) -> Dict[int, float]:
        """Return the mean seconds per iteration of each epoch, or of the run under key 0 if it has no epochs.

        Args:
            include_outliers (bool): Include the first line of each epoch, which contains warm-up. Defaults to False:
                it is excluded unless it is the only one.
        """
        lines = {}
        for line in self.train:
            if 'time' in line:
                lines.setdefault(line.get('epoch', 0), []).append(line['time'])
        return {epoch: float(np.mean(times if include_outliers or len(times) == 1 else times[1:]))
                for epoch, times in lines.items()}


def read_log(path: Union[str, Path]) -> Log:
    """Read the log of a run.

    Args:
        path (str | Path): A file ``scalars.json``, or a work directory. The logs of a resumed run are joined: lines
            after the checkpoint from which it resumed are dropped, as are runs that were started again.

    Raises:
        MissingFileError: No log exists.
        DataError: The log is empty or malformed.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob('*/vis_data/scalars.json')) or sorted(
        path.glob('vis_data/scalars.json'))
    if not files:
        raise MissingFileError(f'The folder {str(path)!r} holds no */vis_data/scalars.json.' if path.is_dir() else
                               f'No log at {str(path)!r}. Expected a work directory or a scalars.json.')
    parts = [part for part in (_read_lines(file) for file in files) if part.train or part.val]
    if not parts:
        raise DataError(f'The log of {str(path)!r} is empty.')
    joined = parts[0]
    for part in parts[1:]:
        joined = _join(joined, part)
    return joined


def _read_lines(path: Path) -> Log:
    log = Log(_run_name(path), [], [])
    lines = path.read_text().splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            if number == len(lines):  # still being written, or cut off when the run was killed
                break
            line = None
        if not isinstance(line, dict) or not isinstance(line.get('step'), int):
            raise DataError(f'{str(path)!r} is not a log of scalars: line {number} is {text[:60]!r}.')
        # Only training lines have a learning rate.
        (log.train if 'lr' in line else log.val).append(line)
    return log


def _join(first: Log, second: Log) -> Log:
    """Join the logs of a run before and after it was resumed."""
    if not second.train:
        return first
    start = second.train[0]
    if 'epoch' in start:
        # Runs with epochs resume at the start of an epoch.
        train = [line for line in first.train if line.get('epoch', 0) < start['epoch']]
        val = [line for line in first.val if line['step'] < start['epoch']]
    else:
        train, val = ([line for line in lines if line['step'] < start['step']] for lines in (first.train, first.val))
    return Log(second.name, train + second.train, val + second.val)


def _run_name(path: Path) -> str:
    """Return the name of the work directory, for mmengine's layout ``<work_dir>/<time>/vis_data``."""
    for folder in path.resolve().parents:
        if folder.name != 'vis_data' and not re.fullmatch(r'\d{8}_\d{6}', folder.name):
            return folder.name
    return path.stem


def label_runs(logs: Sequence[Log], legend: Sequence[str] = ()) -> List[str]:
    """Return labels of runs for a figure: ``legend`` if given, otherwise their names, numbered if they repeat.

    Raises:
        UserError: ``legend`` does not have one name per run.
    """
    if legend and len(legend) != len(logs):
        raise UserError(f'--legend needs one name per run: got {len(legend)} names for {len(logs)} runs.')
    names = [log.name for log in logs]
    return list(legend) or [f'{name} ({names[:index].count(name) + 1})' if names.count(name) > 1 else name
                            for index, name in enumerate(names)]
