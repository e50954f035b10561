"""What a table consists of, and the trainings behind it."""
import copy
import hashlib
import json
import re
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from mmengine.config import Config

from mmat.apis.launch import merge_options
from mmat.utils.zoo import find_config

from .run import Run
from .shorten import shorten

_NEEDED = dict(title=str, seeds=(list, tuple), cells=(list, tuple), note=str)
_OPTIONAL = dict(measure=str, gpus_per_run=int)
_CELL = ('row', 'column', 'config', 'teacher', 'published', 'metric', 'seeds')


def read_recipe(path: str) -> Config:
    """Read the recipe of a table and hold it against what a recipe is.

    A recipe is a Python file with

    - ``title`` (str) and ``note`` (str, what a reader of the numbers must know);
    - ``seeds`` (Sequence[int]): of each cell, whose median is reported;
    - ``measure`` (str): 'error' (default), 100 minus the accuracy, or 'accuracy'; both in percent;
    - ``gpus_per_run`` (int): processes that share a training. Defaults to 1;
    - ``cells`` (Sequence[dict]): ``row``, ``column`` and ``config`` of each, and perhaps ``teacher`` (the config of the
      teacher, trained with its first seed), ``published`` (the number in print), ``metric`` (default
      'accuracy/top1') and ``seeds`` of its own. Several cells may be of one config; it is trained once.

    Args:
        path (str): The file.

    Returns:
        Config: With the defaults filled in.

    Raises:
        FileNotFoundError: There is no such recipe, or no such config.
        ValueError: Something is missing, misspelt or contradicts a config.
    """
    if not Path(path).is_file():
        recipes = sorted(Path('recipes').glob('*.py'))
        there = {each.stem: each for each in (*recipes, *sorted(Path(path).parent.glob('*.py')))}
        close = [there[name] for name in get_close_matches(Path(path).stem, there, n=3)] or recipes
        raise FileNotFoundError(f'no recipe {str(path)!r}' + (
            f'; there are {", ".join(map(str, close))}' if close else ''))
    recipe = Config.fromfile(path)
    takes = {**_NEEDED, **_OPTIONAL}
    for key in recipe:
        # Names of its own it may have.
        absent = [each for each in takes if each not in recipe]
        close = key not in takes and get_close_matches(key, absent, n=1, cutoff=0.8)
        if close:
            raise ValueError(f'the recipe {path} has {key!r}, which none has; did you mean {close[0]!r}?')
    missing = [key for key in _NEEDED if key not in recipe]
    if missing:
        raise ValueError(f'the recipe {path} lacks {", ".join(missing)}; recipes/at_digits.py shows what one has')
    for key, kind in takes.items():
        if key in recipe and not isinstance(recipe[key], kind):
            raise ValueError(f'{key} of the recipe {path} is {recipe[key]!r}')
    recipe.measure = recipe.get('measure', 'error')
    if recipe.measure not in ('error', 'accuracy'):
        raise ValueError(f"measure of the recipe {path} is 'error' or 'accuracy', got {recipe.measure!r}")
    recipe.gpus_per_run = recipe.get('gpus_per_run', 1)
    if recipe.gpus_per_run < 1:
        raise ValueError(f'gpus_per_run of the recipe {path} must be at least 1, got {recipe.gpus_per_run}')
    if not recipe.seeds or not recipe.cells:
        raise ValueError(f'the recipe {path} has no {"cells" if recipe.seeds else "seeds"}')
    _check_seeds(recipe.seeds, f'the recipe {path}')
    files: Dict[str, str] = {}
    first: Dict[str, dict] = {}
    for cell in recipe.cells:
        _check_cell(cell, path)
        for key in ('teacher', 'seeds'):
            other = first.setdefault(name_of(cell.config), cell).get(key)
            if other != cell.get(key):
                raise ValueError(f'the recipe {path} has the config {cell.config} in several cells, which is trained '
                                 f'once, with {key} {other!r} and {cell.get(key)!r}')
        file = str(Path(find_config(cell.config)).resolve())
        if files.setdefault(name_of(cell.config), file) != file:
            raise ValueError(f'the recipe {path} has two configs of one name, by which results go: '
                             f'{files[name_of(cell.config)]} and {file}')
        cell.metric = cell.get('metric', 'accuracy/top1')
        cell.setdefault('published', None)
    return recipe


def _check_seeds(seeds: Sequence[int], where: str) -> None:
    if not isinstance(seeds, (list, tuple)) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ValueError(f'seeds of {where} must be whole numbers, such as (0, 1, 2), got {seeds!r}')


def _check_cell(cell: dict, path: str) -> None:
    missing = [key for key in ('row', 'column', 'config') if key not in cell]
    unknown = [key for key in cell if key not in _CELL]
    if missing or unknown:
        close = unknown and get_close_matches(unknown[0], _CELL, n=1, cutoff=0)
        raise ValueError(f'the cell {dict(cell)} of the recipe {path} ' + (
            f'lacks {", ".join(missing)}' if missing else
            f'has {unknown[0]!r}, which none has; did you mean {close[0]!r}?'))
    where = f'the cell {cell.row!r}, {cell.column!r} of the recipe {path}'
    if 'seeds' in cell:
        _check_seeds(cell.seeds, where)
    if not isinstance(cell.get('published'), (int, float, type(None))):
        raise ValueError(f'published of {where} must be a number, got {cell.published!r}')
    config = Config.fromfile(find_config(cell.config))
    taught = (config.model.get('teacher') or {}).get('model')
    teacher = cell.get('teacher')
    if isinstance(taught, str) and (teacher is None or name_of(teacher) != name_of(taught)):
        raise ValueError(f'{where} has the teacher {teacher!r}, and its config {cell.config} is taught by {taught!r}')
    if teacher is not None and taught is None:
        raise ValueError(f'{where} has the teacher {teacher!r}, and its config {cell.config} has none')


def plan(recipe: Config, work_dir: Path, seeds: Optional[int] = None, only: Sequence[str] = (), scale: float = 1.,
         processes: Optional[int] = None, options: Optional[dict] = None,
         share_batches: bool = False) -> Dict[str, List[Run]]:
    """The trainings of a table: which there are, and which needs which.

    Args:
        recipe (Config): As :func:`read_recipe` gives it.
        work_dir (Path): The table's folder; each training has ``<config>/seed<seed>`` in it.
        seeds (int, optional): How many seeds of each cell; more than the recipe has go on counting. Defaults to None,
            the recipe's.
        only (Sequence[str]): Names of configs or rows, with shell-style wildcards; their teachers are added. Defaults
            to all.
        scale (float): Factor of the number of epochs, see :func:`~mmat.reproduce.shorten.shorten`. Defaults to 1.
        processes (int, optional): Processes that share a training; the batch of each shrinks so that the whole batch
            stays. Defaults to None, the recipe's ``gpus_per_run``.
        options (dict, optional): Settings that differ from those of every config, such as where the data lies.
            Defaults to None.
        share_batches (bool): Whether the seeds of a cell have the same batches, those of its first seed, and so can be
            trained together. Defaults to False.

    Returns:
        dict: Name of a config -> its runs by seed, in the order of the recipe but teachers first. Configs that ``only``
        leaves out have none.

    Raises:
        ValueError: One of ``only`` matches nothing, ``seeds``, ``scale`` or ``processes`` are not positive, a batch
            cannot be shared among so many processes, or batches among seeds.
    """
    for name, number in (('--seeds', seeds), ('--gpus-per-run', processes)):
        if number is not None and number < 1:
            raise ValueError(f'{name} must be at least 1, got {number}')
    processes = processes or recipe.gpus_per_run
    if share_batches and processes > 1:
        raise ValueError(f'--share-batches trains all seeds in one process, and here {processes} share a training: '
                         '--gpus-per-run 1, or without --share-batches')
    names = {name_of(cell.config): cell for cell in recipe.cells}
    for pattern in only:
        known = {*names, *(cell.row for cell in recipe.cells)}
        if not any(fnmatch(name, pattern) for name in known):
            close = get_close_matches(pattern, known, n=3, cutoff=0.2)
            raise ValueError(f'--only {pattern!r} matches no config and no row of the recipe; the closest are '
                             f'{", ".join(map(repr, close))}')
    wanted = dict.fromkeys(name_of(cell.config) for cell in recipe.cells if not only or any(
        fnmatch(name, pattern) for pattern in only for name in (name_of(cell.config), cell.row)))
    runs: Dict[str, List[Run]] = {}
    shared: Dict[str, dict] = {}

    def batch_seed(name: str, config: Config) -> Optional[int]:
        # Of the whole cell, also where only its first seed is wanted, to teach.
        together = seeds_of(recipe, names[name], seeds) if share_batches and name in names else ()
        if len(together) < 2:
            return None
        from mmat.apis.seeds import check_seeds, set_batch_seed  # here: it takes seconds
        try:
            check_seeds(config, together)
            set_batch_seed(copy.deepcopy(config), together[0])
        except ValueError as error:
            raise ValueError(f'--share-batches: the seeds of {name} cannot share their batches: {error}') from error
        return together[0]

    def add(config: str, numbers: Sequence[int], teacher: Optional[str]) -> None:
        name = name_of(config)
        taught_by = None
        if teacher is not None:
            # As a cell of its own it may have seeds of its own, of which the first teaches.
            cell = names.get(name_of(teacher), {})
            add(teacher, seeds_of(recipe, cell, 1), cell.get('teacher'))
            taught_by = runs[name_of(teacher)][0]
        if name not in shared:
            content = Config.fromfile(find_config(config))
            own, trained = {**options_of(content, scale, processes), **(options or {})}, content.copy()
            merge_options(trained, own)  # says which of them no config has
            shared[name] = dict(config=config, options=own, processes=processes, config_hash=hash_of(content),
                                epochs=own.get('train_cfg.max_epochs', content.train_cfg.max_epochs),
                                batch_seed=batch_seed(name, trained))
        known = runs.setdefault(name, [])
        for seed in numbers:
            if all(run.seed != seed for run in known):
                known.append(Run(work_dir / name / f'seed{seed}', seed=seed, teacher=taught_by, **shared[name]))

    for name in wanted:
        cell = names[name]
        add(cell.config, seeds_of(recipe, cell, seeds), cell.get('teacher'))
    return runs


def training_order(runs: Dict[str, List[Run]]) -> List[Run]:
    """The order in which to begin the trainings of :func:`plan`: seed by seed, teachers first.

    A table that is half done then has something in each of its cells.
    """
    taught = {run.teacher for group in runs.values() for run in group}
    everyone = [(index, run not in taught, run) for group in runs.values() for index, run in enumerate(group)]
    return [run for *_, run in sorted(everyone, key=lambda each: each[:2])]


def table_name(recipe: str, scale: float = 1.) -> str:
    """How a table's folder and its file of results are called: the recipe's name, and ``_x<scale>`` where shortened."""
    return Path(recipe).stem + (f'_x{scale:g}' if scale != 1 else '')


def name_of(config: str) -> str:
    """How a config is called in folders and tables: its file's name."""
    return Path(find_config(config)).stem


def hash_of(config: Config) -> str:
    """Hexadecimal digits that change with what a config says, its bases included, and not with how it is written."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True, default=str).encode()).hexdigest()[:16]


def seeds_of(recipe: Config, cell: dict, count: Optional[int] = None) -> List[int]:
    """The seeds of a cell: so many of its own or the recipe's, which go on counting where there are fewer."""
    numbers = list(cell.get('seeds') or recipe.seeds)
    if count is None or cell.get('seeds'):
        return numbers[:count]
    return (numbers + [max(numbers) + 1 + index for index in range(count - len(numbers))])[:count]


def options_of(config: Config, scale: float, processes: int) -> dict:
    """What a training differs in from its config, as ``--cfg-options``."""
    options = shorten(config, scale)
    named = re.search(r'_(\d+)xb(\d+)_', Path(config.filename).stem)
    planned = int(named[1]) if named else 1
    if processes != planned:
        whole = planned * config.train_dataloader.batch_size
        if whole % processes:
            raise ValueError(f'the batch of {config.filename}, {whole}, cannot be shared among {processes} processes')
        options['train_dataloader.batch_size'] = whole // processes
    return options
