"""Generate the tables of the READMEs from ``results/*.csv`` and ``checkpoints/index.csv``.

A table and the provenance of its numbers are written between the lines

    <!-- table: results/at_digits.csv -->
    <!-- end of table -->

of a page. Options after the file's name: ``grid`` (rows and columns as in the paper, instead of a line for each
config) and ``only=PATTERN,...`` (names of configs, or of the table's rows with ``_`` for spaces).
"""
import os
import re
import textwrap
from fnmatch import fnmatch
from pathlib import Path
from typing import List, Sequence

from mmengine.config import Config

from mmat.errors import FileError, MissingFileError, UserError, did_you_mean
from mmat.utils.files import write_atomic
from mmat.utils.zoo import find_config, zoo_root

from .results import read_csv, shared_batches_note, summarise
from .weights import FOLDER, log_path, read_index

_BEGIN, _END = '<!-- table: ', '<!-- end of table -->'
_BLOCK = re.compile(rf'^({_BEGIN}(\S+)((?: \S+)*) -->\n)(.*?)^({_END})$', re.MULTILINE | re.DOTALL)
_PAGES = ('README.md', 'docs/*.md', 'configs/*/README.md', 'results/README.md', f'{FOLDER}/README.md')
_INDEX = f'{FOLDER}/index.csv'


def update_pages(root: Path, write: bool = True) -> List[Path]:
    """Update the tables in all pages of a checkout.

    Args:
        root (Path): The checkout.
        write (bool): Write the pages. If False, only compare them. Defaults to True.

    Returns:
        list[Path]: The outdated pages.

    Raises:
        UserError: From :func:`fill_tables`; no page is written then.
    """
    pages = {page: page.read_text(encoding='utf-8') for pattern in _PAGES for page in sorted(root.glob(pattern))}
    changed = {page: text for page, before in pages.items() if (text := fill_tables(before, page, root)) != before}
    if write:
        for page, text in changed.items():
            write_atomic(page, text.encode())
    return list(changed)


def fill_tables(text: str, page: Path, root: Path) -> str:
    """Return the text of a page with its tables updated.

    The table of a recipe without recorded results is left unchanged.

    Raises:
        UserError: A table has no end, an unknown option or no rows.
        MissingFileError: A file does not exist and belongs to no recipe.
        FileError: A checkpoint has no row of results.
    """
    if len(_BLOCK.findall(text)) != len(re.findall(f'^{_BEGIN}', text, re.MULTILINE)) or len(
            _BLOCK.findall(text)) != len(re.findall(f'^{_END}', text, re.MULTILINE)):
        raise UserError(f'{page}: a table needs both lines, {_BEGIN}FILE --> and {_END}.')

    def replace(match):
        begin, file, options, content, end = match.groups()
        if not (root / file).is_file():
            _check_recipe(file, page, root)
            return match[0]
        made = _index_table(page, root) if file == _INDEX else _results_table(root / file, options.split(), page, root)
        return f'{begin}{made}{end}'

    return _BLOCK.sub(replace, text)


def _check_recipe(file: str, page: Path, root: Path) -> None:
    """Raise an error if a missing file will not be created by a recipe."""
    recipe = re.fullmatch(r'results/(\w+?)(?:_x[\d.e-]+)?\.csv', file)
    if file != _INDEX and not (recipe and (root / 'recipes' / f'{recipe[1]}.py').is_file()):
        known = [_INDEX, *(f'results/{path.stem}.csv' for path in sorted((root / 'recipes').glob('*.py'))),
                 *(f'results/{path.name}' for path in sorted((root / 'results').glob('*.csv')))]
        raise MissingFileError(f'{page}: {file} does not exist and belongs to no recipe.'
                               f'{did_you_mean(file, known, n=1, cutoff=0)}')


# A table of results

def _results_table(file: Path, options: Sequence[str], page: Path, root: Path) -> str:
    grid, only = False, None
    for option in options:
        if option == 'grid':
            grid = True
        elif option.startswith('only='):
            only = option[5:].split(',')
        else:
            raise UserError(f'{page}: unknown table option {option!r}; the options are grid and only=PATTERN,...')
    all_rows = read_csv(file)
    rows = [row for row in all_rows if only is None or any(
        fnmatch(name, each) for each in only for name in (row['config'], row['row'].replace(' ', '_')))]
    if not rows:
        known = ', '.join(sorted({row['config'] for row in all_rows}))
        raise UserError(f'{page}: only={",".join(only or ())} matches no row of {file.name}. Its configs: {known}.')
    lines = _grid(rows, page, root) if grid else _list(rows, file.stem, page, root)
    text = '\n'.join(textwrap.wrap(' '.join(_about(rows, file, page, root, grid)), 120, break_long_words=False,
                                   break_on_hyphens=False))
    return '\n'.join(lines) + f'\n\n{text}\n'


def _list(rows: List[dict], table: str, page: Path, root: Path) -> List[str]:
    """Return a table with a line for each config; of several cells of a config, it shows the first."""
    first = {}
    rows = [row for row in rows if first.setdefault((row['config'], row['metric']), (row['row'], row['column'])) == (
        row['row'], row['column'])]
    cells = summarise(rows)
    weights = {(row['config'], row['results']): row for row in read_index(root)}
    seeds = [sorted(cell['values']) for cell in cells.values()]
    usual = max(seeds, key=lambda each: (len(each), seeds.count(each)))
    several = {len(each) for each in seeds if len(each) > 1}
    median = f'{_measure(rows)}: ' + (_seeds(usual) if not several else f'median of {several.pop()} seeds' if
                                      len(several) == 1 else 'median')
    plain = len({column for _, column in cells}) == 1
    content = []
    for (row, column), cell in cells.items():
        own = sorted(cell['values'])
        values = ', '.join(f'{cell["values"][seed]:.2f}' for seed in own)
        published = weights.get((cell['config'], table))
        content.append({
            'network': row if plain else f'{row}: {column}',
            'config': _config_link(cell['config'], cell['config'], page, root),
            'published': '' if cell['published'] is None else f'{cell["published"]:g}',
            median: f'{cell["median"]:.2f}',
            'min to max': f'{cell["min"]:.2f} to {cell["max"]:.2f}' if len(own) > 1 else '',
            _seeds(usual): f'{values} ({_seeds(own)})' if own != usual else values if len(own) > 1 else '',
            'checkpoint': _files(published, page, root) if published else '',
        })
    columns = [column for column in content[0] if any(line[column] for line in content)]
    return _markdown(columns, [[line[column] for column in columns] for line in content])


def _grid(rows: List[dict], page: Path, root: Path) -> List[str]:
    """Return a table with the rows and columns of the recipe: medians, with published values in parentheses."""
    cells = summarise(rows)
    lines, columns = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))

    def text(cell):
        if cell is None:
            return ''
        published = '' if cell['published'] is None else f' ({cell["published"]:g})'
        return _config_link(f'{cell["median"]:.2f}', cell['config'], page, root) + published

    return _markdown([_measure(rows), *columns],
                     [[line, *(text(cells.get((line, column))) for column in columns)] for line in lines])


def _about(rows: List[dict], file: Path, page: Path, root: Path, grid: bool) -> List[str]:
    """Yield sentences about the provenance of the numbers."""
    recipe = root / 'recipes' / f'{rows[0]["recipe"]}.py'
    epochs = dict.fromkeys((row['epochs'], row['planned_epochs']) for row in rows)
    shortened = any(trained != planned for trained, planned in epochs)
    published = any(row['published'] is not None for row in rows)
    if shortened:
        lengths = _and(f'{trained} of {planned}' for trained, planned in epochs)
        yield f'**Shortened: {lengths} epochs**, with the learning rate and head weight schedules scaled alike.' + (
            ' Not comparable with the published numbers, which are from full training.' if published else '')
    else:
        yield f'{_and(trained for trained, _ in epochs)} epochs, as in the configs.'
    counts = sorted({len(cell['values']) for cell in summarise(rows).values()})
    if grid:
        seeds = f'Median of {_and(counts, "or")} seeds' if counts[-1] > 1 else 'One seed'
        yield seeds + (', published values in parentheses.' if published else '.')
    if shared_batches_note(rows):
        yield shared_batches_note(rows)
    if recipe.is_file():
        yield Config.fromfile(recipe).note
    precision, hardware, dates = ([row[key] for row in rows] for key in ('precision', 'hardware', 'date'))
    versions = _and(dict.fromkeys(f'torch {row["torch"]}, mmat {row["mmat"]}' for row in rows))
    commits = _and(dict.fromkeys(f'`{row["commit"]}`' for row in rows))
    days = min(dates) if min(dates) == max(dates) else f'{min(dates)} to {max(dates)}'
    yield (f'{_and(dict.fromkeys(precision))} on {_and(dict.fromkeys(hardware))}; {versions}; commit {commits}; '
           f'{days}.')
    scale = re.fullmatch(r'.*_x([\d.e-]+)', file.stem)
    command = f'tools/reproduce.py recipes/{rows[0]["recipe"]}.py' + (
        f' --epochs-scale {scale[1]}' if scale else '') + (
        ' --share-batches' if any(row['batch_seed'] is not None for row in rows) else '')
    yield f'All runs: [{file.relative_to(root)}]({_link(file, page)}), produced by `python {command}`.'


def _measure(rows: List[dict]) -> str:
    metrics = {row['metric'] for row in rows}
    return f'test {rows[0]["measure"]}' + (' (top-5)' if metrics == {'accuracy/top5'} else '') + ', %'


def _seeds(numbers: Sequence[int]) -> str:
    return f'seed{"s" if len(numbers) > 1 else ""} {", ".join(map(str, numbers))}'


def _and(words, last: str = 'and') -> str:
    *words, end = map(str, words)
    return f'{", ".join(words)} {last} {end}' if words else end


# Checkpoints

def _index_table(page: Path, root: Path) -> str:
    """Return the table of all checkpoints in the repository."""
    content = []
    for entry in read_index(root):
        file = root / 'results' / f'{entry["results"]}.csv'
        row = next((row for row in (read_csv(file) if file.is_file() else ())
                    if (row['config'], row['seed']) == (entry['config'], entry['seed'])), None)
        if row is None:
            raise FileError(f'{page}: {entry["file"]} has no row in results/{file.name} for seed {entry["seed"]} of '
                            f'{entry["config"]}. Record both with tools/misc/land_results.py.')
        trained, planned = row['epochs'], row['planned_epochs']
        content.append([
            _config_link(entry['config'], entry['config'], page, root), _files(entry, page, root),
            f'{trained} of {planned}' if trained != planned else str(trained), str(entry['seed']),
            f'{entry["accuracy"]:.2f}', f'{entry["bytes"] / 1e6:.2f} MB, {entry["precision"]}',
            f'[{entry["results"]}]({_link(file, page)})',
        ])
    return '\n'.join(_markdown(('config', 'checkpoint', 'epochs', 'seed', 'accuracy, %', 'size', 'results'),
                               content)) + '\n'


# Markdown

def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> List[str]:
    lines = ['|' + ''.join(f' {cell} |' if cell else ' |' for cell in cells) for cells in (head, *rows)]
    return [lines[0], '|' + '---|' * len(head), *lines[1:]]


def _link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target, page.parent)).as_posix()


def _config_link(label: str, name: str, page: Path, root: Path) -> str:
    return f'[{label}]({_link(root / Path(find_config(name)).relative_to(zoo_root()), page)})'


def _files(entry: dict, page: Path, root: Path) -> str:
    path = root / FOLDER / entry['file']
    return f'[model]({_link(path, page)}) [log]({_link(log_path(path), page)})'
