"""Recipes of tables, and the runs that they need."""
import copy
import hashlib
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from mmengine.config import Config

from mmat.apis.launch import merge_options
from mmat.errors import ConfigError, MissingFileError, did_you_mean
from mmat.utils.zoo import find_config

from .run import Run
from .shorten import shorten

_REQUIRED = dict(title=str, seeds=(list, tuple), cells=(list, tuple), note=str)
_OPTIONAL = dict(measure=str, gpus_per_run=int)
_CELL = ('row', 'column', 'config', 'teacher', 'published', 'metric', 'seeds')


def read_recipe(path: str) -> Config:
    """Read and check the recipe of a table.

    A recipe is a Python file with

    - ``title`` (str) and ``note`` (str, how to read the numbers);
    - ``seeds`` (Sequence[int]): the seeds of each cell, whose median is reported;
    - ``measure`` (str): 'error', 100 minus the accuracy, or 'accuracy', both in percent. Defaults to 'error';
    - ``gpus_per_run`` (int): processes of each training. Defaults to 1;
    - ``cells`` (Sequence[dict]): each with ``row``, ``column`` and ``config``, and optionally ``teacher`` (the
      teacher's config, whose first seed teaches), ``published`` (the published number), ``metric`` (defaults to
      'accuracy/top1') and ``seeds`` (instead of the recipe's). A config in several cells is trained once.

    Args:
        path (str): The file.

    Returns:
        Config: The recipe, with defaults filled in.

    Raises:
        MissingFileError: The recipe or one of its configs does not exist.
        ConfigError: A key is missing, unknown, has a wrong value, or contradicts a config.
    """
    if not Path(path).is_file():
        recipes = [str(each) for each in sorted(Path('recipes').glob('*.py'))]
        hint = did_you_mean(path, [*recipes, *map(str, sorted(Path(path).parent.glob('*.py')))], cutoff=0.6)
        if not hint and recipes:
            hint = f' Choose from {", ".join(recipes)}.'
        raise MissingFileError(f'No recipe {str(path)!r}.{hint}')
    recipe = Config.fromfile(path)
    known = {**_REQUIRED, **_OPTIONAL}
    for key in recipe:
        # Other names are allowed, so only close misspellings of absent keys are refused.
        hint = key not in known and did_you_mean(key, [each for each in known if each not in recipe], 1, 0.8)
        if hint:
            raise ConfigError(f'Recipe {path}: unknown key {key!r}.{hint}')
    missing = [key for key in _REQUIRED if key not in recipe]
    if missing:
        raise ConfigError(f'Recipe {path}: missing {", ".join(missing)}. See recipes/at_digits.py for an example.')
    for key, kind in known.items():
        if key in recipe and not isinstance(recipe[key], kind):
            raise ConfigError(f'Recipe {path}: {key} must be {_kind_name(kind)}, got {recipe[key]!r}.')
    recipe.measure = recipe.get('measure', 'error')
    if recipe.measure not in ('error', 'accuracy'):
        raise ConfigError(f"Recipe {path}: measure must be 'error' or 'accuracy', got {recipe.measure!r}.")
    recipe.gpus_per_run = recipe.get('gpus_per_run', 1)
    if recipe.gpus_per_run < 1:
        raise ConfigError(f'Recipe {path}: gpus_per_run must be at least 1, got {recipe.gpus_per_run}.')
    if not recipe.seeds or not recipe.cells:
        raise ConfigError(f'Recipe {path}: {"cells" if recipe.seeds else "seeds"} must not be empty.')
    _check_seeds(recipe.seeds, f'Recipe {path}')
    files: Dict[str, str] = {}
    first: Dict[str, dict] = {}
    for cell in recipe.cells:
        _check_cell(cell, path)
        for key in ('teacher', 'seeds'):
            other = first.setdefault(name_of(cell.config), cell).get(key)
            if other != cell.get(key):
                raise ConfigError(f'Recipe {path}: cells of the config {cell.config} must have the same {key}, because '
                                  f'it is trained once. Got {other!r} and {cell.get(key)!r}.')
        file = str(Path(find_config(cell.config)).resolve())
        if files.setdefault(name_of(cell.config), file) != file:
            raise ConfigError(f'Recipe {path}: config files must have different names, because results are stored by '
                              f'name. Got {files[name_of(cell.config)]} and {file}.')
        cell.metric = cell.get('metric', 'accuracy/top1')
        cell.setdefault('published', None)
    return recipe


def _kind_name(kind) -> str:
    return {str: 'a string', int: 'a whole number'}.get(kind, 'a list or tuple')


def _check_seeds(seeds: Sequence[int], where: str) -> None:
    if not isinstance(seeds, (list, tuple)) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError(f'{where}: seeds must be whole numbers, such as (0, 1, 2), got {seeds!r}.')


def _check_cell(cell: dict, path: str) -> None:
    missing = [key for key in ('row', 'column', 'config') if key not in cell]
    if missing:
        raise ConfigError(f'Recipe {path}, cell {dict(cell)}: missing {", ".join(missing)}.')
    where = f'Recipe {path}, cell {cell.row!r}, {cell.column!r}'
    for key in cell:
        if key not in _CELL:
            raise ConfigError(f'{where}: unknown key {key!r}.{did_you_mean(key, _CELL, 1, 0)}')
    if 'seeds' in cell:
        _check_seeds(cell.seeds, where)
    if not isinstance(cell.get('published'), (int, float, type(None))):
        raise ConfigError(f'{where}: published must be a number, got {cell.published!r}.')
    config = Config.fromfile(find_config(cell.config))
    configured = (config.model.get('teacher') or {}).get('model')
    teacher = cell.get('teacher')
    if isinstance(configured, str) and (teacher is None or name_of(teacher) != name_of(configured)):
        raise ConfigError(f'{where}: teacher must be {configured!r}, as in its config {cell.config}, got {teacher!r}.')
    if teacher is not None and configured is None:
        raise ConfigError(f'{where}: teacher is {teacher!r}, but its config {cell.config} has no teacher.')


def plan(recipe: Config, work_dir: Path, seeds: Optional[int] = None, only: Sequence[str] = (), scale: float = 1.,
         processes: Optional[int] = None, options: Optional[dict] = None,
         share_batches: bool = False) -> Dict[str, List[Run]]:
    """List the runs of a table.

    Args:
        recipe (Config): See :func:`read_recipe`.
        work_dir (Path): The table's folder. Runs are stored in ``<config>/seed<seed>``.
        seeds (int, optional): Number of seeds of each cell. If it exceeds the recipe's, further seeds count up from the
            largest. Defaults to None: the recipe's.
        only (Sequence[str]): Configs or rows to train, with shell-style wildcards; their teachers are added. Defaults
            to all.
        scale (float): Factor for the number of epochs, see :func:`~mmat.reproduce.shorten.shorten`. Defaults to 1.
        processes (int, optional): Processes of each training; the batch size of each process is adjusted so that the
            total stays the same. Defaults to None: the recipe's ``gpus_per_run``.
        options (dict, optional): Settings that override every config's, such as data folders. Defaults to None.
        share_batches (bool): Whether the seeds of a cell use the batches of its first seed, so that they can be trained
            in one process. Defaults to False.

    Returns:
        dict: Config name -> its runs by seed, in the order of the recipe but with teachers first. Configs excluded by
        ``only`` are absent.

    Raises:
        ConfigError: An item of ``only`` matches nothing, ``seeds``, ``scale`` or ``processes`` are not positive, the
            batch size is not divisible by ``processes``, or the seeds cannot share batches.
    """
    for name, number in (('--seeds', seeds), ('--gpus-per-run', processes)):
        if number is not None and number < 1:
            raise ConfigError(f'{name} must be at least 1, got {number}.')
    processes = processes or recipe.gpus_per_run
    if share_batches and processes > 1:
        raise ConfigError(f'--share-batches trains all seeds in one process and cannot be used with {processes} '
                          'processes per training. Add --gpus-per-run 1, or remove --share-batches.')
    names = {name_of(cell.config): cell for cell in recipe.cells}
    for pattern in only:
        known = {*names, *(cell.row for cell in recipe.cells)}
        if not any(fnmatch(name, pattern) for name in known):
            raise ConfigError(f'--only {pattern!r} matches no config and no row of the recipe.'
                              f'{did_you_mean(pattern, known, cutoff=0.2)}')
    wanted = dict.fromkeys(name_of(cell.config) for cell in recipe.cells if not only or any(
        fnmatch(name, pattern) for pattern in only for name in (name_of(cell.config), cell.row)))
    runs: Dict[str, List[Run]] = {}
    common: Dict[str, dict] = {}

    def batch_seed(name: str, config: Config) -> Optional[int]:
        # Of the cell's seeds, even if only the first is needed, as a teacher.
        together = seeds_of(recipe, names[name], seeds) if share_batches and name in names else ()
        if len(together) < 2:
            return None
        from mmat.apis.seeds import check_seeds, set_batch_seed  # takes seconds
        try:
            check_seeds(config, together)
            set_batch_seed(copy.deepcopy(config), together[0])
        except ConfigError as error:
            raise ConfigError(f'--share-batches: the seeds of {name} cannot share batches. {error}') from error
        return together[0]

    def add(config: str, numbers: Sequence[int], teacher: Optional[str]) -> None:
        name = name_of(config)
        teacher_run = None
        if teacher is not None:
            # If the teacher has a cell with separate seeds, the first of them teaches.
            cell = names.get(name_of(teacher), {})
            add(teacher, seeds_of(recipe, cell, 1), cell.get('teacher'))
            teacher_run = runs[name_of(teacher)][0]
        if name not in common:
            content = Config.fromfile(find_config(config))
            overrides, merged = {**options_of(content, scale, processes), **(options or {})}, content.copy()
            merge_options(merged, overrides)  # raises for unknown settings
            common[name] = dict(config=config, options=overrides, processes=processes, config_hash=hash_of(content),
                                epochs=overrides.get('train_cfg.max_epochs', content.train_cfg.max_epochs),
                                batch_seed=batch_seed(name, merged))
        known = runs.setdefault(name, [])
        for seed in numbers:
            if all(run.seed != seed for run in known):
                known.append(Run(work_dir / name / f'seed{seed}', seed=seed, teacher=teacher_run, **common[name]))

    for name in wanted:
        cell = names[name]
        add(cell.config, seeds_of(recipe, cell, seeds), cell.get('teacher'))
    return runs


def training_order(runs: Dict[str, List[Run]]) -> List[Run]:
    """Order the runs of :func:`plan` for training: seed by seed, teachers first.

    A half-finished table then has results in every cell.
    """
    teachers = {run.teacher for by_seed in runs.values() for run in by_seed}
    everyone = [(index, run not in teachers, run) for by_seed in runs.values() for index, run in enumerate(by_seed)]
    return [run for *_, run in sorted(everyone, key=lambda each: each[:2])]


def table_name(recipe: str, scale: float = 1.) -> str:
    """Return the name of a table's folder and results file: the recipe's, and ``_x<scale>`` if epochs are scaled."""
    return Path(recipe).stem + (f'_x{scale:g}' if scale != 1 else '')


def name_of(config: str) -> str:
    """Return the name of a config in folders and tables: its file name without the ending."""
    return Path(find_config(config)).stem


def hash_of(config: Config) -> str:
    """Return a hash, 16 hexadecimal digits, of a config's content including its bases, but not of its formatting."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True, default=str).encode()).hexdigest()[:16]


def seeds_of(recipe: Config, cell: dict, count: Optional[int] = None) -> List[int]:
    """Return the first ``count`` seeds of a cell, or all. Further ones count up from the largest of the recipe's."""
    numbers = list(cell.get('seeds') or recipe.seeds)
    if count is None or cell.get('seeds'):
        return numbers[:count]
    return (numbers + [max(numbers) + 1 + index for index in range(count - len(numbers))])[:count]


def options_of(config: Config, scale: float, processes: int) -> dict:
    """Return the settings that override a config's, as ``--cfg-options``, for scaled epochs and several processes."""
    options = shorten(config, scale)
    named = re.search(r'_(\d+)xb(\d+)_', Path(config.filename).stem)
    planned = int(named[1]) if named else 1
    if processes != planned:
        total = planned * config.train_dataloader.batch_size
        if total % processes:
            raise ConfigError(f'Cannot divide the batch size {total} of {config.filename} among {processes} processes.')
        options['train_dataloader.batch_size'] = total // processes
    return options
