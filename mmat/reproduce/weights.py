"""The checkpoints of a table's runs, as they lie in the repository: small, tested, each with its log."""
import csv
import datetime
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from mmengine.config import Config

from mmat.tooling.logs import read_log
from mmat.tooling.publish import publish_checkpoint
from mmat.utils.files import write_atomic
from mmat.utils.zoo import find_config, sha256_of, zoo_root

from .run import Run

FOLDER = 'checkpoints'
# Of checkpoints/index.csv: the file; what it gives when it is tested; whose it is, and where that run's row is.
INDEX_COLUMNS = ('file', 'sha256', 'bytes', 'precision', 'accuracy', 'config', 'seed', 'results', 'checkpoint_sha256')
_NUMBERS = dict(bytes=int, accuracy=float, seed=int)
MAX_BYTES = 3_000_000
MAX_BYTES_OF_ALL = 40_000_000
MAX_BYTES_OF_LOG = 200_000
# In points of accuracy: with another number of threads, or on another GPU, a picture in thousands that lies on the
# boundary falls to the other side.
SLACK = 0.05


class TooLarge(ValueError):
    """A checkpoint that may not lie in the repository."""


def accuracy_of(row: dict) -> float:
    """The accuracy, in percent, of a row of results, whichever of the two it measures."""
    return round(100 - row['value'], 4) if row['measure'] == 'error' else row['value']


def chosen_row(rows: Sequence[dict], config: str) -> dict:
    """The row whose checkpoint stands for a config: of the seed that taught others, or else of the median seed.

    Args:
        rows (Sequence[dict]): All of a table, as :func:`~mmat.reproduce.results.collect` gives them.
        config (str): Name of a config that is among them.

    Returns:
        dict: One of ``rows``. Of an even number of seeds it is the worse of the two in the middle.
    """
    own = [row for row in rows if row['config'] == config]
    # A config may have several cells, and a cell for each metric; the first decides.
    first = {row['seed']: row for row in reversed(own) if row['metric'] == own[0]['metric']}
    taught = {row['teacher_seed'] for row in rows if row['teacher'] == config} & first.keys()
    if taught:
        return first[min(taught)]
    worst_first = sorted(first.values(), key=lambda row: (accuracy_of(row), row['seed']))
    return worst_first[(len(worst_first) - 1) // 2]


def publish_run(run: Run, row: dict, results: str, folder: Path) -> dict:
    """Write a run's weights and its log, ``<name>.pth`` and ``<name>.log.json``.

    The weights are stored in float16 where the whole test set is classified exactly as well with them, in float32
    otherwise.

    Args:
        run (Run): It is done.
        row (dict): Its row of results.
        results (str): Name of the file that has the row, without suffix.
        folder (Path): Where to write.

    Returns:
        dict: :data:`INDEX_COLUMNS`.

    Raises:
        FileNotFoundError: The run's checkpoint is gone.
        ValueError: It is not the one that the run ended with, does not give the run's accuracy, or is too large.
        RuntimeError: It cannot be tested.
    """
    source = run.work_dir / run.result['checkpoint']
    if not source.is_file():
        raise FileNotFoundError(f'the checkpoint of {run.label}, {str(source)!r}, is gone; train it again, or leave '
                                f'{run.name} out of --weights')
    if sha256_of(source) != row['checkpoint_sha256']:
        raise ValueError(f'{str(source)!r} is not the checkpoint that {run.label} ended with: its SHA-256 is another '
                         'than that in result.json')
    config = Config.fromfile(find_config(run.config))
    date = datetime.date.fromisoformat(row['date'])
    name = run.name + (f'_{row["epochs"]}of{row["planned_epochs"]}e' if row['epochs'] != row['planned_epochs'] else '')
    expected = accuracy_of(row)

    path, precision = publish_checkpoint(source, folder / 'float32' / name, config, date=date), 'float32'
    accuracy = measure(run, path, row['metric'])
    if abs(accuracy - expected) > SLACK:
        raise ValueError(f'the checkpoint of {run.label} gives an accuracy of {accuracy} % here, and its run {expected}'
                         ': test it where it was trained, with the same data')
    half = _half(source, folder / 'float16' / name, config, date)
    if half is not None and measure(run, half, row['metric']) == accuracy:
        path, precision = half, 'float16'
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise TooLarge(f'{run.name}: {size:,} bytes in {precision}, more than the {MAX_BYTES:,} that a checkpoint in '
                       'the repository may have')
    write_atomic(folder / path.name, path.read_bytes())
    write_atomic(log_of(folder / path.name), log_text(run).encode())
    return dict(file=path.name, sha256=sha256_of(path), bytes=size, precision=precision, accuracy=accuracy,
                config=run.name, seed=run.seed, results=results, checkpoint_sha256=row['checkpoint_sha256'])


def _half(source: Path, target: Path, config: Config, date: datetime.date) -> Optional[Path]:
    try:
        return publish_checkpoint(source, target, config, half=True, date=date)
    except ValueError:  # values that float16 cannot hold; all else was checked in float32
        return None


def measure(run: Run, checkpoint: Path, metric: str) -> float:
    """The accuracy of a checkpoint file on the test set of a run's config, in percent, by ``tools/test.py``."""
    out = checkpoint.parent / 'metrics.json'
    options = run.command_options(teacher=False)
    command = [sys.executable, str(zoo_root() / 'tools' / 'test.py'), run.config, str(checkpoint), '--work-dir',
               str(checkpoint.parent / 'test'), '--out', str(out), *(['--cfg-options', *options] if options else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or 'nothing').splitlines()[-1]
        raise RuntimeError(f'{run.label} cannot be tested: {said}')
    return round(json.loads(out.read_text())[metric], 4)


# Logs

def log_of(checkpoint: Path) -> Path:
    """Where the log of a published checkpoint lies."""
    return checkpoint.with_name(f'{checkpoint.stem}.log.json')


def log_text(run: Run) -> str:
    """What a run logged, a line of JSON each: every validation, and of the training as much as there is room for.

    Work that was done again after an interruption is there once. ``tools/analysis_tools/analyze_logs.py`` reads it.
    """
    log = read_log(run.work_dir)
    if all(line['step'] != run.epochs for line in log.val):
        # Killed between the last checkpoint and its validation, and tested afterwards.
        log.val.append(dict(run.result['metrics'], step=run.epochs))
    last_of_epoch = {line['epoch']: number for number, line in enumerate(log.train)}.values()
    every = 1
    while True:
        train = [line for number, line in enumerate(log.train) if number % every == 0 or number in last_of_epoch]
        lines = sorted([*((line['epoch'], 0, line) for line in train), *((line['step'], 1, line) for line in log.val)],
                       key=lambda each: each[:2])
        text = ''.join(f'{json.dumps(line)}\n' for *_, line in lines)
        if len(text) <= MAX_BYTES_OF_LOG or every > len(log.train):
            return text
        every *= 2


# The index

def read_index(root: Path) -> List[dict]:
    """The rows of ``checkpoints/index.csv``; none where there is no such file.

    Raises:
        ValueError: Its columns are others than :data:`INDEX_COLUMNS`.
    """
    path = root / FOLDER / 'index.csv'
    if not path.is_file():
        return []
    with open(path, newline='') as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != INDEX_COLUMNS:
            raise ValueError(f'{str(path)!r} has the columns {reader.fieldnames}, expected {list(INDEX_COLUMNS)}')
        return [{key: _NUMBERS.get(key, str)(text) for key, text in row.items()} for row in reader]


def index_text(rows: Sequence[Dict[str, object]]) -> str:
    """``checkpoints/index.csv``, sorted by file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, INDEX_COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row['file']))
    return text.getvalue()
