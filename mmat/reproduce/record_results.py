"""Record a table's runs in the repository: rows of results, checkpoints with logs, metafile entries."""
import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config

from mmat.errors import ConfigError, MissingFileError, UserError, did_you_mean
from mmat.utils.files import write_atomic
from mmat.utils.zoo import find_config

from .metafile import read_yaml, set_training
from .recipe import hash_of, name_of, options_of, read_recipe, table_name
from .results import collect, write_csv
from .run import Run, open_run
from .weights import (
    FOLDER,
    MAX_BYTES_OF_ALL,
    CheckpointTooLargeError,
    format_index,
    log_path,
    publish_run,
    read_index,
    row_accuracy,
    select_row,
)

# Names of the metrics in metafiles.
_METRICS = {'accuracy/top1': 'Top 1 Accuracy', 'accuracy/top5': 'Top 5 Accuracy'}


@dataclass
class Table:
    """The finished runs of a table.

    Attributes:
        name (str): Name of its file in ``results``, such as 'at_digits' or 'at_table1_x0.05'.
        rows (list[dict]): From :func:`~mmat.reproduce.results.collect`.
        runs (dict): Name of a config -> its finished runs, by seed.
    """
    name: str
    rows: List[dict]
    runs: Dict[str, List[Run]]


def read_table(recipe: str, work_dir: Path, scale: float = 1.) -> Table:
    """Read the finished runs of a table and check that they can be reproduced.

    Args:
        recipe (str): The recipe's file.
        work_dir (Path): The table's folder. All finished seeds are read.
        scale (float): The factor of the number of epochs in training. Defaults to 1.

    Raises:
        MissingFileError: The recipe or the folder does not exist, or no run is finished.
        ConfigError: A run has other settings than ``scale`` means, or its config changed after training.
        UserError: A run used uncommitted code, or its teacher was trained again.
    """
    content = read_recipe(recipe)
    if not work_dir.is_dir():
        raise MissingFileError(f'The folder {str(work_dir)!r} does not exist. Run tools/reproduce.py {recipe} first.')
    runs = {}
    for name, file in {name_of(cell.config): find_config(cell.config) for cell in content.cells}.items():
        found = [open_run(path.parent) for path in (work_dir / name).glob('seed*/run.json')]
        runs[name] = sorted((run for run in found if run.result), key=lambda run: run.seed)
        config = Config.fromfile(file)
        for run in runs[name]:
            _check_run(run, config, scale)
    if not any(runs.values()):
        raise MissingFileError(f'No run of {recipe} in {str(work_dir)!r} is finished.')
    return Table(table_name(recipe, scale), collect(Path(recipe).stem, content, runs), runs)


def _check_run(run: Run, config: Config, scale: float) -> None:
    planned = json.loads(json.dumps(options_of(config, scale, run.processes)))
    if run.options != planned:
        raise ConfigError(f'{run.label} was trained with {run.options or "the settings of its config"}, but '
                          f'--epochs-scale {scale:g} means {planned or "the settings of its config"}.')
    commit = run.result['commit']
    if commit is None or commit.endswith('+'):
        code = 'outside a git checkout' if commit is None else f'with uncommitted changes to commit {commit[:-1]}'
        raise UserError(f'{run.label} was trained {code}, so it cannot be reproduced. Commit the code, then train '
                        'again in that checkout.')
    if run.config_hash not in (None, hash_of(config)):
        raise ConfigError(f'The config of {run.label} changed after training. Restore the config or train again.')
    if run.teacher and (run.teacher.result or {}).get('checkpoint_sha256') != run.result['teacher_sha256']:
        raise UserError(f'The teacher of {run.label} was trained again later: {run.teacher.label}. Train the student '
                        'again.')


def record_results(table: Table, root: Path, weights: Optional[Sequence[str]] = None) -> List[str]:
    """Write a table into a checkout: ``results/<name>.csv``, checkpoints with their logs and index, metafiles.

    An earlier state of the table is replaced. All files are created and checked before the checkout is changed.

    Args:
        table (Table): From :func:`read_table`.
        root (Path): The checkout.
        weights (Sequence[str], optional): Names of configs, with shell-style wildcards, to store a checkpoint of.
            Defaults to None: all configs of the table, except those with a checkpoint from another table and those
            whose checkpoint is too large.

    Returns:
        list[str]: A line for each change and each skipped checkpoint.

    Raises:
        UserError: From :func:`~mmat.reproduce.weights.publish_run`; a pattern in ``weights`` matches nothing; a config
            has no entry in a metafile; or the checkpoints are too large together.
        RuntimeError: Testing a checkpoint crashed.
    """
    index, zoo, lines = read_index(root), _Zoo(root), []
    # Keep the entries of weights from other projects.
    configs = [config for config in dict.fromkeys(row['config'] for row in table.rows)
               if '://' not in zoo.find(config)[1].get('Weights', '')]
    elsewhere = {row['config'] for row in index if row['results'] != table.name}
    chosen = [config for config in configs if config not in elsewhere] if weights is None else _match(weights, configs)
    lines += [f'{config}: keeping its checkpoint from another table; --weights {config} replaces it'
              for config in configs if config in elsewhere and config not in chosen]
    with TemporaryDirectory() as folder:
        published = {}
        for config in chosen:
            row = select_row(table.rows, config)
            run = next(run for run in table.runs[config] if run.seed == row['seed'])
            try:
                published[config] = publish_run(run, row, table.name, Path(folder) / config)
            except CheckpointTooLargeError as error:
                if weights is not None:
                    raise
                lines.append(f'Skipped: {error}')
        replaced = [row for row in index if row['results'] == table.name or row['config'] in published]
        index = [row for row in index if row not in replaced] + list(published.values())
        if sum(row['bytes'] for row in index) > MAX_BYTES_OF_ALL:
            raise UserError(f'The checkpoints in the repository would have {sum(row["bytes"] for row in index):,} '
                            f'bytes in total; the limit is {MAX_BYTES_OF_ALL:,}. Select fewer with --weights.')
        updated = [config for config in configs if config in published or config not in elsewhere]
        metafiles = _metafiles(zoo, {row['config']: {} for row in replaced} | {
            config: _training(table, config, published.get(config), zoo.find(config)[1]) for config in updated})

        for config, row in published.items():
            for file in (Path(folder) / config / row['file'], log_path(Path(folder) / config / row['file'])):
                write_atomic(root / FOLDER / file.name, file.read_bytes())
            lines.append(f'{config}: seed {row["seed"]}, {row["bytes"]:,} bytes in {row["precision"]}, '
                         f'accuracy {row["accuracy"]} %: {FOLDER}/{row["file"]}')
    write_csv(table.rows, root / 'results' / f'{table.name}.csv')
    if index or replaced:
        write_atomic(root / FOLDER / 'index.csv', format_index(index).encode())
    for path, text in metafiles.items():
        write_atomic(path, text.encode())
    for row in replaced:
        if row['file'] not in {each['file'] for each in index}:
            (root / FOLDER / row['file']).unlink(missing_ok=True)
            log_path(root / FOLDER / row['file']).unlink(missing_ok=True)
    return [*lines, f'results/{table.name}.csv: {len(table.rows)} rows']


def _match(patterns: Sequence[str], configs: Sequence[str]) -> List[str]:
    for pattern in patterns:
        if not any(fnmatch(config, pattern) for config in configs):
            hint = did_you_mean(pattern, configs, cutoff=0.2) or f' Available: {", ".join(configs)}.'
            raise UserError(f'--weights {pattern!r} matches no config with finished runs.{hint}')
    return [config for config in configs if any(fnmatch(config, pattern) for pattern in patterns)]


# Metafiles

class _Zoo:
    """The metafiles of a checkout.

    Attributes:
        texts (dict): File -> text.
    """

    def __init__(self, root: Path):
        files = read_yaml((root / 'model-index.yml').read_text(encoding='utf-8'))['Import']
        self.texts = {root / file: (root / file).read_text(encoding='utf-8') for file in files}
        self._entries = {entry['Name']: (file, entry) for file, text in self.texts.items()
                         for entry in read_yaml(text)['Models']}

    def find(self, config: str) -> Tuple[Path, dict]:
        """Return the file and the entry of a config."""
        if config not in self._entries:
            raise UserError(f'{config} has no entry in a metafile. Add one before recording its results.')
        return self._entries[config]


def _metafiles(zoo: _Zoo, trainings: Dict[str, dict]) -> Dict[Path, str]:
    """Return the changed metafiles and their texts, given the arguments of :func:`set_training` by config."""
    texts = dict(zoo.texts)
    for config, training in trainings.items():
        file, _ = zoo.find(config)
        texts[file] = set_training(texts[file], config, **training)
    return {file: text for file, text in texts.items() if text != zoo.texts[file]}


def _training(table: Table, config: str, published: Optional[dict], entry: dict) -> dict:
    """Return the arguments of :func:`set_training` for the run with published weights, otherwise for the median."""
    own = [row for row in table.rows if row['config'] == config]
    seeds = sorted({row['seed'] for row in own})
    all_seeds = f'seeds {", ".join(map(str, seeds))}' if len(seeds) > 1 else f'seed {seeds[0]}'
    metrics = {}
    for metric in dict.fromkeys(row['metric'] for row in own):
        values = {row['seed']: row_accuracy(row) for row in own if row['metric'] == metric}
        value = values[published['seed']] if published else median(values.values())
        metrics[_METRICS.get(metric, metric)] = round(value, 2)
    epochs, planned = own[0]['epochs'], own[0]['planned_epochs']
    data = entry['Metadata']['Training Data']
    fields = dict(Results=[dict(Dataset=data, Metrics=metrics, Task='Image Classification')])
    metadata = dict(Epochs=epochs if epochs == planned else f'{epochs} of {planned}')
    if published is None:
        source = f'Median of {all_seeds}' if len(seeds) > 1 else f'S{all_seeds[1:]}'
    else:
        seed = published['seed']
        fields['Weights'] = f'{FOLDER}/{published["file"]}'
        fields['Training Log'] = f'{FOLDER}/{log_path(Path(published["file"])).name}'
        metadata['Seed'] = seed
        is_teacher = any((row['teacher'], row['teacher_seed']) == (config, seed) for row in table.rows)
        source = f'Seed {seed}' + (', which taught the students' if is_teacher else
                                 f', the median of {all_seeds}' if len(seeds) > 1 else '')
    shortened = '' if epochs == planned else f'Shortened to {epochs} of {planned} epochs. '
    return dict(fields=fields, metadata=metadata, comment=f'{shortened}{source}: results/{table.name}.csv.')
