"""How a table's runs become part of the repository: rows of results, checkpoints with logs, metafile entries."""
import json
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Dict, List, Optional, Sequence

from mmengine.config import Config

from mmat.utils.files import write_atomic
from mmat.utils.zoo import find_config

from .metafile import read_yaml, set_training
from .recipe import hash_of, name_of, options_of, read_recipe, table_name
from .results import collect, write_csv
from .run import Run, open_run
from .weights import (
    FOLDER,
    MAX_BYTES_OF_ALL,
    TooLarge,
    accuracy_of,
    chosen_row,
    index_text,
    log_of,
    publish_run,
    read_index,
)

# What the metafiles call a metric.
_METRICS = {'accuracy/top1': 'Top 1 Accuracy', 'accuracy/top5': 'Top 5 Accuracy'}


@dataclass
class Table:
    """What has been measured of a table.

    Attributes:
        name (str): Of its file in ``results``, such as 'at_digits' or 'at_table1_x0.05'.
        rows (list[dict]): As :func:`~mmat.reproduce.results.collect` gives them.
        runs (dict): Name of a config -> its runs that are done, by seed.
    """
    name: str
    rows: List[dict]
    runs: Dict[str, List[Run]]


def read_table(recipe: str, work_dir: Path, scale: float = 1.) -> Table:
    """The finished runs of a table, fit to be shown to others.

    Args:
        recipe (str): The recipe's file.
        work_dir (Path): The table's folder. Whatever seeds are done are taken.
        scale (float): The factor of epochs that it was trained with. Defaults to 1.

    Raises:
        FileNotFoundError: There is no such recipe or folder, or nothing in it is done.
        ValueError: A run is of another scale, of code that no commit has, or was taught by a run that is no more.
    """
    content = read_recipe(recipe)
    if not work_dir.is_dir():
        raise FileNotFoundError(f'no folder {str(work_dir)!r}; tools/reproduce.py {recipe} makes one')
    runs = {}
    for name, file in {name_of(cell.config): find_config(cell.config) for cell in content.cells}.items():
        found = [open_run(path.parent) for path in (work_dir / name).glob('seed*/run.json')]
        runs[name] = sorted((run for run in found if run.result), key=lambda run: run.seed)
        config = Config.fromfile(file)
        for run in runs[name]:
            _check_run(run, config, scale)
    if not any(runs.values()):
        raise FileNotFoundError(f'nothing of {recipe} is done in {str(work_dir)!r}')
    return Table(table_name(recipe, scale), collect(Path(recipe).stem, content, runs), runs)


def _check_run(run: Run, config: Config, scale: float) -> None:
    planned = json.loads(json.dumps(options_of(config, scale, run.processes)))
    if run.options != planned:
        raise ValueError(f'{run.label} was trained with {run.options or "the settings of its config"}, and '
                         f'--epochs-scale {scale:g} means {planned or "those of its config"}')
    commit = run.result['commit']
    if commit is None or commit.endswith('+'):
        raise ValueError(
            f'{run.label} was trained with ' + ('code outside a git checkout' if commit is None else
                                                f'code that differs from commit {commit[:-1]}') +
            ': nobody could train it again. Commit first, and train in that checkout')
    if run.config_hash not in (None, hash_of(config)):
        raise ValueError(f'the config of {run.label} was changed since it was trained, which the number does not tell')
    if run.teacher and (run.teacher.result or {}).get('checkpoint_sha256') != run.result['teacher_sha256']:
        raise ValueError(f'the teacher of {run.label}, {run.teacher.label}, is not the one that taught: it has been '
                         'trained again since')


def land(table: Table, root: Path, weights: Optional[Sequence[str]] = None) -> List[str]:
    """Write a table into a checkout: ``results/<name>.csv``, checkpoints with their logs and index, metafiles.

    What was there of an earlier state of the table is replaced. Everything is made and checked before the first file
    is touched.

    Args:
        table (Table): From :func:`read_table`.
        root (Path): The checkout.
        weights (Sequence[str], optional): Names of configs, with shell-style wildcards, to have a checkpoint in the
            repository. Defaults to None: all of the table but those that have one of another table, or whose
            checkpoint is too large.

    Returns:
        list[str]: What was done, a line each.

    Raises:
        FileNotFoundError, RuntimeError, ValueError: As :func:`~mmat.reproduce.weights.publish_run`.
        ValueError: One of ``weights`` matches nothing, a config has no entry in a metafile, or the checkpoints are too
            large together.
    """
    index, zoo, lines = read_index(root), _Zoo(root), []
    # Entries of other projects' weights tell of these.
    configs = [config for config in dict.fromkeys(row['config'] for row in table.rows)
               if '://' not in zoo.find(config)[1].get('Weights', '')]
    elsewhere = {row['config'] for row in index if row['results'] != table.name}
    chosen = [config for config in configs if config not in elsewhere] if weights is None else _match(weights, configs)
    lines += [f'{config}: its checkpoint of another table stays; --weights {config} replaces it'
              for config in configs if config in elsewhere and config not in chosen]
    with TemporaryDirectory() as folder:
        published = {}
        for config in chosen:
            row = chosen_row(table.rows, config)
            run = next(run for run in table.runs[config] if run.seed == row['seed'])
            try:
                published[config] = publish_run(run, row, table.name, Path(folder) / config)
            except TooLarge as error:
                if weights is not None:
                    raise
                lines.append(f'no checkpoint of {error}')
        gone = [row for row in index if row['results'] == table.name or row['config'] in published]
        index = [row for row in index if row not in gone] + list(published.values())
        if sum(row['bytes'] for row in index) > MAX_BYTES_OF_ALL:
            raise ValueError(f'the checkpoints in the repository would have {sum(row["bytes"] for row in index):,} '
                             f'bytes together, more than {MAX_BYTES_OF_ALL:,}: name fewer with --weights')
        told = [config for config in configs if config in published or config not in elsewhere]
        metafiles = _metafiles(zoo, {row['config']: {} for row in gone} | {
            config: _training(table, config, published.get(config), zoo.find(config)[1]) for config in told})

        for config, row in published.items():
            for file in (Path(folder) / config / row['file'], log_of(Path(folder) / config / row['file'])):
                write_atomic(root / FOLDER / file.name, file.read_bytes())
            lines.append(f'{config}: seed {row["seed"]}, {row["bytes"]:,} bytes in {row["precision"]}, '
                         f'accuracy {row["accuracy"]} %: {FOLDER}/{row["file"]}')
    write_csv(table.rows, root / 'results' / f'{table.name}.csv')
    if index or gone:
        write_atomic(root / FOLDER / 'index.csv', index_text(index).encode())
    for path, text in metafiles.items():
        write_atomic(path, text.encode())
    for row in gone:
        if row['file'] not in {each['file'] for each in index}:
            (root / FOLDER / row['file']).unlink(missing_ok=True)
            log_of(root / FOLDER / row['file']).unlink(missing_ok=True)
    return [*lines, f'results/{table.name}.csv: {len(table.rows)} rows']


def _match(patterns: Sequence[str], configs: Sequence[str]) -> List[str]:
    for pattern in patterns:
        if not any(fnmatch(config, pattern) for config in configs):
            close = get_close_matches(pattern, configs, n=3, cutoff=0.2)
            raise ValueError(f'--weights {pattern!r} matches none of the configs that are done' + (
                f'; the closest are {", ".join(close)}' if close else f': {", ".join(configs)}'))
    return [config for config in configs if any(fnmatch(config, pattern) for pattern in patterns)]


# Metafiles

class _Zoo:
    """The metafiles of a checkout: ``texts`` by file, and each entry with its file."""

    def __init__(self, root: Path):
        files = read_yaml((root / 'model-index.yml').read_text(encoding='utf-8'))['Import']
        self.texts = {root / file: (root / file).read_text(encoding='utf-8') for file in files}
        self._entries = {entry['Name']: (file, entry) for file, text in self.texts.items()
                         for entry in read_yaml(text)['Models']}

    def find(self, config: str) -> tuple:
        if config not in self._entries:
            raise ValueError(f'{config} has no entry in a metafile; the zoo lists every config whose results land')
        return self._entries[config]


def _metafiles(zoo: _Zoo, told: Dict[str, dict]) -> Dict[Path, str]:
    """The metafiles that change -> their text, with what is to be said of the training of each config."""
    texts = dict(zoo.texts)
    for config, training in told.items():
        file, _ = zoo.find(config)
        texts[file] = set_training(texts[file], config, **training)
    return {file: text for file, text in texts.items() if text != zoo.texts[file]}


def _training(table: Table, config: str, published: Optional[dict], entry: dict) -> dict:
    """What an entry says: of the run whose weights it has, or else of the median. For :func:`set_training`."""
    own = [row for row in table.rows if row['config'] == config]
    seeds = sorted({row['seed'] for row in own})
    all_seeds = f'seeds {", ".join(map(str, seeds))}' if len(seeds) > 1 else f'seed {seeds[0]}'
    metrics = {}
    for metric in dict.fromkeys(row['metric'] for row in own):
        values = {row['seed']: accuracy_of(row) for row in own if row['metric'] == metric}
        value = values[published['seed']] if published else median(values.values())
        metrics[_METRICS.get(metric, metric)] = round(value, 2)
    epochs, planned = own[0]['epochs'], own[0]['planned_epochs']
    data = entry['Metadata']['Training Data']
    fields = dict(Results=[dict(Dataset=data, Metrics=metrics, Task='Image Classification')])
    metadata = dict(Epochs=epochs if epochs == planned else f'{epochs} of {planned}')
    if published is None:
        what = f'Median of {all_seeds}' if len(seeds) > 1 else f'S{all_seeds[1:]}'
    else:
        seed = published['seed']
        fields['Weights'] = f'{FOLDER}/{published["file"]}'
        fields['Training Log'] = f'{FOLDER}/{log_of(Path(published["file"])).name}'
        metadata['Seed'] = seed
        teaches = any((row['teacher'], row['teacher_seed']) == (config, seed) for row in table.rows)
        what = f'Seed {seed}' + (', which taught the students' if teaches else
                                 f', the median of {all_seeds}' if len(seeds) > 1 else '')
    shortened = '' if epochs == planned else f'Shortened to {epochs} of {planned} epochs. '
    return dict(fields=fields, metadata=metadata, comment=f'{shortened}{what}: results/{table.name}.csv.')
