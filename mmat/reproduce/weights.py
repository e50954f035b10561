"""Checkpoints of a table's runs for the repository: small, tested, each with its log."""
import csv
import datetime
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from mmengine.config import Config

from mmat.errors import CheckpointError, FileError, MissingFileError, UserError
from mmat.tooling.logs import read_log
from mmat.tooling.publish import publish_checkpoint
from mmat.utils.files import write_atomic
from mmat.utils.zoo import find_config, sha256_of, zoo_root

from .run import Run

FOLDER = 'checkpoints'
# The columns of checkpoints/index.csv: the file, its tested accuracy, its run, and the file with the run's results.
INDEX_COLUMNS = ('file', 'sha256', 'bytes', 'precision', 'accuracy', 'config', 'seed', 'results', 'checkpoint_sha256')
_NUMBERS = dict(bytes=int, accuracy=float, seed=int)
MAX_BYTES = 3_000_000
MAX_BYTES_OF_ALL = 40_000_000
MAX_BYTES_OF_LOG = 200_000
# In percentage points: another number of threads or another GPU changes the prediction of a few images in thousands.
ACCURACY_TOLERANCE = 0.05


class CheckpointTooLargeError(UserError):
    """A checkpoint that is too large for the repository."""


def row_accuracy(row: dict) -> float:
    """Return the accuracy of a row of results in percent, whether it has the error or the accuracy."""
    return round(100 - row['value'], 4) if row['measure'] == 'error' else row['value']


def select_row(rows: Sequence[dict], config: str) -> dict:
    """Select the row whose checkpoint represents a config: the teacher of other runs, otherwise the median seed.

    Args:
        rows (Sequence[dict]): All rows of a table, from :func:`~mmat.reproduce.results.collect`.
        config (str): Name of a config in ``rows``.

    Returns:
        dict: One of ``rows``. For an even number of seeds, the worse of the two in the middle.
    """
    own = [row for row in rows if row['config'] == config]
    # A config may have several cells and metrics; use the first.
    first = {row['seed']: row for row in reversed(own) if row['metric'] == own[0]['metric']}
    teachers = {row['teacher_seed'] for row in rows if row['teacher'] == config} & first.keys()
    if teachers:
        return first[min(teachers)]
    worst_first = sorted(first.values(), key=lambda row: (row_accuracy(row), row['seed']))
    return worst_first[(len(worst_first) - 1) // 2]


def publish_run(run: Run, row: dict, results: str, folder: Path) -> dict:
    """Write the weights and the log of a run, ``<name>.pth`` and ``<name>.log.json``.

    The weights are stored in float16 if that does not change the accuracy on the test set, otherwise in float32.

    Args:
        run (Run): A finished run.
        row (dict): Its row of results.
        results (str): Name of the results file with that row, without suffix.
        folder (Path): Where to write.

    Returns:
        dict: A row of the index, see :data:`INDEX_COLUMNS`.

    Raises:
        MissingFileError: The run's checkpoint was deleted.
        CheckpointError: The checkpoint changed after training, or its accuracy is not the one of the run.
        CheckpointTooLargeError: The checkpoint is larger than :data:`MAX_BYTES`.
        UserError, RuntimeError: From :func:`measure_accuracy`.
    """
    source = run.work_dir / run.result['checkpoint']
    if not source.is_file():
        raise MissingFileError(f'The checkpoint of {run.label} does not exist: {str(source)!r}. Train it again, or '
                               f'leave {run.name} out of --weights.')
    if sha256_of(source) != row['checkpoint_sha256']:
        raise CheckpointError(f'The checkpoint of {run.label} changed after training: the SHA-256 of {str(source)!r} '
                              'differs from result.json.')
    config = Config.fromfile(find_config(run.config))
    date = datetime.date.fromisoformat(row['date'])
    name = run.name + (f'_{row["epochs"]}of{row["planned_epochs"]}e' if row['epochs'] != row['planned_epochs'] else '')
    expected = row_accuracy(row)

    path, precision = publish_checkpoint(source, folder / 'float32' / name, config, date=date), 'float32'
    accuracy = measure_accuracy(run, path, row['metric'])
    if abs(accuracy - expected) > ACCURACY_TOLERANCE:
        raise CheckpointError(f'The checkpoint of {run.label} has an accuracy of {accuracy} % here, but {expected} % '
                              'in its run. Test it on the machine and data that it was trained with.')
    half = _half(source, folder / 'float16' / name, config, date)
    if half is not None and measure_accuracy(run, half, row['metric']) == accuracy:
        path, precision = half, 'float16'
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointTooLargeError(f'The checkpoint of {run.name} has {size:,} bytes in {precision}; the limit for '
                                      f'the repository is {MAX_BYTES:,}.')
    write_atomic(folder / path.name, path.read_bytes())
    write_atomic(log_path(folder / path.name), merge_logs(run).encode())
    return dict(file=path.name, sha256=sha256_of(path), bytes=size, precision=precision, accuracy=accuracy,
                config=run.name, seed=run.seed, results=results, checkpoint_sha256=row['checkpoint_sha256'])


def _half(source: Path, target: Path, config: Config, date: datetime.date) -> Optional[Path]:
    try:
        return publish_checkpoint(source, target, config, half=True, date=date)
    except CheckpointError:  # values outside the range of float16; all else was checked in float32
        return None


def measure_accuracy(run: Run, checkpoint: Path, metric: str) -> float:
    """Measure the accuracy of a checkpoint on the test set of a run's config with ``tools/test.py``, in percent.

    Raises:
        UserError: The tool reports an error, such as missing data.
        RuntimeError: The tool crashes.
    """
    out = checkpoint.parent / 'metrics.json'
    options = run.command_options(teacher=False)
    command = [sys.executable, str(zoo_root() / 'tools' / 'test.py'), run.config, str(checkpoint), '--work-dir',
               str(checkpoint.parent / 'test'), '--out', str(out), *(['--cfg-options', *options] if options else [])]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        crashed = 'Traceback (most recent call last)' in process.stderr
        output = process.stderr.strip() or process.stdout.strip() or f'exit status {process.returncode}'
        raise (RuntimeError if crashed else UserError)(
            f'Testing {run.label} failed: {output if crashed else output.splitlines()[-1]}')
    return round(json.loads(out.read_text())[metric], 4)


# Logs

def log_path(checkpoint: Path) -> Path:
    """Return the path of the log of a published checkpoint."""
    return checkpoint.with_name(f'{checkpoint.stem}.log.json')


def merge_logs(run: Run) -> str:
    """Merge the logs of a run into one: all validations, and as many training lines as fit in ``MAX_BYTES_OF_LOG``.

    Iterations that were repeated after an interruption appear once. Each line is JSON, in the format of
    ``tools/analysis_tools/analyze_logs.py``.
    """
    log = read_log(run.work_dir)
    if all(line['step'] != run.epochs for line in log.val):
        # The run was killed between its last checkpoint and validation, and tested afterwards.
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
    """Read the rows of ``checkpoints/index.csv``; an empty list if the file does not exist.

    Raises:
        FileError: The columns are not :data:`INDEX_COLUMNS`.
    """
    path = root / FOLDER / 'index.csv'
    if not path.is_file():
        return []
    with open(path, newline='') as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != INDEX_COLUMNS:
            raise FileError(f'{str(path)!r} has the columns {reader.fieldnames}, expected {list(INDEX_COLUMNS)}.')
        return [{key: _NUMBERS.get(key, str)(text) for key, text in row.items()} for row in reader]


def format_index(rows: Sequence[Dict[str, object]]) -> str:
    """Return the content of ``checkpoints/index.csv``, sorted by file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, INDEX_COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row['file']))
    return text.getvalue()
