"""The JSON logs of runs: one line of scalars for every so many steps, and one for every validation."""
import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Dict, List, Sequence, Tuple, Union

import numpy as np

# What a line says about its place.
_PLACE = ('step', 'iter', 'epoch')


@dataclass
class Log:
    """The log of one run.

    Attributes:
        name (str): The run's, from its work directory.
        train (list[dict]): Scalars during training, in order; ``step`` counts iterations, ``epoch`` from 1.
        val (list[dict]): Metrics of validations; ``step`` counts epochs, or iterations where there are no epochs.
    """
    name: str
    train: List[dict]
    val: List[dict]

    @property
    def by_epoch(self) -> bool:
        return bool(self.train) and 'epoch' in self.train[0]

    @property
    def keys(self) -> List[str]:
        """What can be drawn."""
        return sorted({key for line in (*self.train, *self.val) for key, value in line.items()
                       if key not in _PLACE and isinstance(value, (int, float))})

    def curve(self, key: str) -> Tuple[np.ndarray, np.ndarray]:
        """Where and what a scalar was, from the lines of the training or else those of validations.

        Args:
            key (str): One of :attr:`keys`.

        Returns:
            tuple: Epochs done (iterations, for a run without epochs), and values, two arrays of one length.

        Raises:
            ValueError: The run logs no such scalar; the message names the closest.
        """
        if key not in self.keys:
            close = get_close_matches(key, self.keys, n=3, cutoff=0.5)
            raise ValueError(f'{self.name} logs no {key!r}; ' + (
                f'the closest are {", ".join(close)}' if close else f'it logs {", ".join(self.keys)}'))
        lines, length = [line for line in self.train if key in line], 1
        if not lines:
            lines = [line for line in self.val if key in line]
        elif self.by_epoch:
            # The last step of an epoch is logged, and no other line has as many steps for its epoch.
            length = max(line['step'] / line['epoch'] for line in self.train)
        return np.array([line['step'] for line in lines]) / length, np.array([line[key] for line in lines])

    def train_times(self, include_outliers: bool = False) -> Dict[int, float]:
        """Mean seconds of an iteration, by epoch (all under 0, for a run without epochs).

        Args:
            include_outliers (bool): Count the first line of each epoch too, which warms up. Defaults to False: it is
                left out where it is not the only one.
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
        path (str | Path): A work directory, whose logs are joined where the run was resumed: what was logged after the
            checkpoint it went on from is left out, as are runs that began anew. Or one file, ``scalars.json``.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A file that holds something else.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob('*/vis_data/scalars.json')) or sorted(
        path.glob('vis_data/scalars.json'))
    if not files:
        found = f'the folder {str(path)!r} holds no */vis_data/scalars.json' if path.is_dir() else (
            f'no log at {str(path)!r}: it is neither a work directory nor a scalars.json')
        raise FileNotFoundError(found)
    parts = [part for part in (_read_lines(file) for file in files) if part.train or part.val]
    if not parts:
        raise ValueError(f'{str(path)!r} logs nothing yet')
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
            if number == len(lines):  # being written right now, or when its run was killed
                break
            line = None
        if not isinstance(line, dict) or not isinstance(line.get('step'), int):
            raise ValueError(f'{str(path)!r} is no log of scalars: line {number} is {text[:60]!r}')
        # As mmpretrain tells them apart.
        (log.train if 'lr' in line else log.val).append(line)
    return log


def _join(first: Log, second: Log) -> Log:
    """What remains of a run's first log, and its second."""
    if not second.train:
        return first
    start = second.train[0]
    if 'epoch' in start:
        # Epochs are resumed at their beginning.
        train = [line for line in first.train if line.get('epoch', 0) < start['epoch']]
        val = [line for line in first.val if line['step'] < start['epoch']]
    else:
        train, val = ([line for line in lines if line['step'] < start['step']] for lines in (first.train, first.val))
    return Log(second.name, train + second.train, val + second.val)


def _run_name(path: Path) -> str:
    """The work directory of a log that mmengine wrote in ``<work_dir>/<time>/vis_data``."""
    for folder in path.resolve().parents:
        if folder.name != 'vis_data' and not re.fullmatch(r'\d{8}_\d{6}', folder.name):
            return folder.name
    return path.stem


def label_runs(logs: Sequence[Log], legend: Sequence[str] = ()) -> List[str]:
    """What a figure calls each run: its name, numbered where several have it, or what ``legend`` says.

    Raises:
        ValueError: A legend of another length.
    """
    if legend and len(legend) != len(logs):
        raise ValueError(f'--legend must name each of the {len(logs)} runs, got {len(legend)} names')
    names = [log.name for log in logs]
    return list(legend) or [f'{name} ({names[:index].count(name) + 1})' if names.count(name) > 1 else name
                            for index, name in enumerate(names)]
