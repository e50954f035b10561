"""The measured numbers of a table, one for each cell and seed, with where each is from."""
import csv
import io
from pathlib import Path
from statistics import median
from typing import Dict, List, Optional, Sequence, Union

from mmengine.config import Config

from mmat.utils.files import write_atomic
from mmat.utils.zoo import find_config

from .recipe import name_of
from .run import Run

# The columns of results/*.csv: what and how much; what was trained; from whom it learned; what came out; where.
COLUMNS = ('recipe', 'row', 'column', 'published', 'measure', 'value', 'metric',
           'config', 'seed', 'batch_seed', 'epochs', 'planned_epochs', 'options', 'processes', 'precision',
           'teacher', 'teacher_seed', 'teacher_sha256', 'checkpoint_sha256',
           'commit', 'mmat', 'python', 'torch', 'torchvision', 'mmengine', 'mmpretrain', 'numpy',
           'hardware', 'wall_time', 'attempts', 'date')
# Files of before seeds could share their batches lack it; theirs did not.
_LATER = ('batch_seed', )
_NUMBERS = dict(published=float, value=float, seed=int, batch_seed=int, epochs=int, planned_epochs=int, processes=int,
                teacher_seed=int, wall_time=int, attempts=int)


def collect(name: str, recipe: Config, runs: Dict[str, List[Run]]) -> List[dict]:
    """What has been measured of a table so far.

    Args:
        name (str): Name of the recipe, such as 'at_table1'.
        recipe (Config): As :func:`~mmat.reproduce.recipe.read_recipe` gives it.
        runs (dict): As :func:`~mmat.reproduce.recipe.plan` gives them.

    Returns:
        list[dict]: For each cell, in the order of the recipe, and each of its runs that is done, :data:`COLUMNS`.
        ``value`` and ``published`` are in percent, ``epochs`` those that were trained and ``planned_epochs`` those of
        the config. ``batch_seed`` is None where a run had batches of its own, and where it shared them the seed that
        they are of. ``wall_time`` is in seconds, of runs that were trained in one process a run's share.
    """
    rows = []
    planned = {each: Config.fromfile(find_config(group[0].config)).train_cfg.max_epochs
               for each, group in runs.items() if group}
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
    """The seeds of each cell in a few numbers.

    Args:
        rows (Sequence[dict]): As :func:`collect` gives them.

    Returns:
        dict: (row, column) -> ``values`` (seed -> value), ``median``, ``min``, ``max``, ``published`` and
        ``difference`` (median minus published, None without), ``config``, ``epochs`` and ``planned_epochs``.
    """
    cells: Dict[tuple, List[dict]] = {}
    for row in rows:
        cells.setdefault((row['row'], row['column']), []).append(row)
    summaries = {}
    for key, group in cells.items():
        values = {row['seed']: row['value'] for row in group}
        middle, published = median(values.values()), group[0]['published']
        summaries[key] = dict(
            values=values, median=middle, min=min(values.values()), max=max(values.values()), published=published,
            difference=None if published is None else middle - published, config=group[0]['config'],
            epochs=group[0]['epochs'], planned_epochs=group[0]['planned_epochs'])
    return summaries


def shared_batches_note(rows: Sequence[dict]) -> str:
    """What the spread of seeds that shared their batches does not hold, a sentence; empty where none did.

    Args:
        rows (Sequence[dict]): As :func:`collect` gives them.
    """
    seeds: Dict[str, Dict[int, Optional[int]]] = {}
    for row in rows:
        seeds.setdefault(row['config'], {})[row['seed']] = row['batch_seed']
    several = {config: own for config, own in seeds.items() if len(own) > 1}
    shared: Dict[tuple, List[str]] = {}
    for config, own in several.items():
        together = tuple(sorted(seed for seed, batches in own.items() if batches is not None))
        if len(together) > 1:
            shared.setdefault(together, []).append(config)
    told = []
    for together, configs in shared.items():
        in_a_row = len(together) > 2 and together == tuple(range(together[0], together[-1] + 1))
        numbers = f'{together[0]} to {together[-1]}' if in_a_row else (
            f'{", ".join(map(str, together[:-1]))} and {together[-1]}')
        whose = '' if len(configs) == len(several) else f' of {", ".join(configs)}'
        told.append(f'seeds {numbers}{whose}')
    if not told:
        return ''
    text = '; '.join(told)
    return (f'{text[0].upper()}{text[1:]} saw the same batches: their spread holds the chance of the initialisation, '
            'not that of the order and augmentation of the data.')


def write_csv(rows: Sequence[dict], path: Union[str, Path]) -> None:
    """Write rows as :func:`collect` gives them; the file is whole or not there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def read_csv(path: Union[str, Path]) -> List[dict]:
    """Read what :func:`write_csv` wrote: numbers as numbers, and None where there is nothing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its columns are others than :data:`COLUMNS`.
    """
    with open(path, newline='') as file:
        reader = csv.DictReader(file)
        before = tuple(column for column in COLUMNS if column not in _LATER)
        if tuple(reader.fieldnames or ()) not in (COLUMNS, before):
            raise ValueError(f'{str(path)!r} is no file of results: its columns are {reader.fieldnames}, expected '
                             f'{list(COLUMNS)}')
        return [{key: _value(key, row.get(key, '')) for key in COLUMNS} for row in reader]


def _value(key: str, text: str) -> Optional[object]:
    return _NUMBERS.get(key, str)(text) if text else None
