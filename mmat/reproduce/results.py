"""Measured numbers of a table: one row for each cell and seed, with how it was obtained."""
import csv
import io
from pathlib import Path
from statistics import median
from typing import Dict, List, Optional, Sequence, Union

from mmengine.config import Config

from mmat.errors import FileError, MissingFileError
from mmat.utils.files import write_atomic
from mmat.utils.zoo import find_config

from .recipe import name_of
from .run import Run

# Columns of results/*.csv: cell and value; training; teacher and checkpoint; code; hardware and time.
COLUMNS = ('recipe', 'row', 'column', 'published', 'measure', 'value', 'metric',
           'config', 'seed', 'batch_seed', 'epochs', 'planned_epochs', 'options', 'processes', 'precision',
           'teacher', 'teacher_seed', 'teacher_sha256', 'checkpoint_sha256',
           'commit', 'mmat', 'python', 'torch', 'torchvision', 'mmengine', 'mmpretrain', 'numpy',
           'hardware', 'wall_time', 'attempts', 'date')
# Absent from older files, whose seeds did not share batches.
_ADDED_COLUMNS = ('batch_seed', )
_NUMBERS = dict(published=float, value=float, seed=int, batch_seed=int, epochs=int, planned_epochs=int, processes=int,
                teacher_seed=int, wall_time=int, attempts=int)


def collect(name: str, recipe: Config, runs: Dict[str, List[Run]]) -> List[dict]:
    """Collect the results of the runs that are done.

    Args:
        name (str): Name of the recipe, such as 'at_table1'.
        recipe (Config): See :func:`~mmat.reproduce.recipe.read_recipe`.
        runs (dict): See :func:`~mmat.reproduce.recipe.plan`.

    Returns:
        list[dict]: A row with :data:`COLUMNS` for each cell, in the order of the recipe, and each finished run.
        ``value`` and ``published`` are in percent. ``epochs`` were trained, ``planned_epochs`` are the config's.
        ``batch_seed`` is the seed of shared batches, None if they followed from ``seed``. ``wall_time`` is in seconds,
        divided by the number of runs trained in one process.
    """
    rows = []
    planned = {each: Config.fromfile(find_config(by_seed[0].config)).train_cfg.max_epochs
               for each, by_seed in runs.items() if by_seed}
    for cell in recipe.cells:
        for run in runs.get(name_of(cell.config), ()):
            result = run.result
            if result is None:
                continue
            accuracy = result['metrics'][cell.metric]
            rows.append(dict(
                recipe=name, row=cell.row, column=cell.column, published=cell.published, measure=recipe.measure,
                value=round(100 - accuracy if recipe.measure == 'error' else accuracy, 4), metric=cell.metric,
                config=run.name, seed=run.seed, batch_seed=result.get('batch_seed'), epochs=result['epochs'],
                planned_epochs=planned[run.name],
                options=' '.join(run.command_options(teacher=False)), processes=run.processes,
                precision=result['precision'], teacher=run.teacher and run.teacher.name,
                teacher_seed=run.teacher and run.teacher.seed, teacher_sha256=result['teacher_sha256'],
                checkpoint_sha256=result['checkpoint_sha256'], commit=result['commit'], **result['versions'],
                hardware=result['hardware'], wall_time=result['wall_time'], attempts=result['attempts'],
                date=result['date']))
    return rows


def summarise(rows: Sequence[dict]) -> Dict[tuple, dict]:
    """Summarise the seeds of each cell.

    Args:
        rows (Sequence[dict]): See :func:`collect`.

    Returns:
        dict: (row, column) -> ``values`` (seed -> value), ``median``, ``min``, ``max``, ``published``, ``difference``
        (median minus published, None if unpublished), ``config``, ``epochs`` and ``planned_epochs``.
    """
    cells: Dict[tuple, List[dict]] = {}
    for row in rows:
        cells.setdefault((row['row'], row['column']), []).append(row)
    summaries = {}
    for key, cell in cells.items():
        values = {row['seed']: row['value'] for row in cell}
        middle, published = median(values.values()), cell[0]['published']
        summaries[key] = dict(
            values=values, median=middle, min=min(values.values()), max=max(values.values()), published=published,
            difference=None if published is None else middle - published, config=cell[0]['config'],
            epochs=cell[0]['epochs'], planned_epochs=cell[0]['planned_epochs'])
    return summaries


def shared_batches_note(rows: Sequence[dict]) -> str:
    """Return a sentence on what the spread of seeds with shared batches leaves out; empty if no seeds shared batches.

    Args:
        rows (Sequence[dict]): See :func:`collect`.
    """
    batch_seeds: Dict[str, Dict[int, Optional[int]]] = {}
    for row in rows:
        batch_seeds.setdefault(row['config'], {})[row['seed']] = row['batch_seed']
    several = {config: by_seed for config, by_seed in batch_seeds.items() if len(by_seed) > 1}
    shared: Dict[tuple, List[str]] = {}
    for config, by_seed in several.items():
        together = tuple(sorted(seed for seed, batch_seed in by_seed.items() if batch_seed is not None))
        if len(together) > 1:
            shared.setdefault(together, []).append(config)
    parts = []
    for together, configs in shared.items():
        consecutive = len(together) > 2 and together == tuple(range(together[0], together[-1] + 1))
        numbers = f'{together[0]} to {together[-1]}' if consecutive else (
            f'{", ".join(map(str, together[:-1]))} and {together[-1]}')
        of = '' if len(configs) == len(several) else f' of {", ".join(configs)}'
        parts.append(f'seeds {numbers}{of}')
    if not parts:
        return ''
    text = '; '.join(parts)
    return (f'{text[0].upper()}{text[1:]} share batches: their spread reflects the random initialisation only, not the '
            'order and augmentation of the data.')


def write_csv(rows: Sequence[dict], path: Union[str, Path]) -> None:
    """Write the rows of :func:`collect` to a CSV file, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def read_csv(path: Union[str, Path]) -> List[dict]:
    """Read a CSV file of :func:`write_csv`: numbers as numbers, empty fields as None.

    Raises:
        MissingFileError: The file does not exist.
        FileError: The columns are not :data:`COLUMNS`.
    """
    if not Path(path).is_file():
        raise MissingFileError(f'No file {str(path)!r}.')
    with open(path, newline='') as file:
        reader = csv.DictReader(file)
        older = tuple(column for column in COLUMNS if column not in _ADDED_COLUMNS)
        if tuple(reader.fieldnames or ()) not in (COLUMNS, older):
            raise FileError(f'{str(path)!r} is not a file of results: expected the columns {list(COLUMNS)}, got '
                            f'{reader.fieldnames}.')
        return [{key: _parse(key, row.get(key, '')) for key in COLUMNS} for row in reader]


def _parse(key: str, text: str) -> Optional[object]:
    return _NUMBERS.get(key, str)(text) if text else None
