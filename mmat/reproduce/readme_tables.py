"""The tables of the READMEs that are made of ``results/*.csv`` and of ``checkpoints/index.csv``.

Where a page has

    <!-- table: results/at_digits.csv -->
    <!-- end of table -->

the table goes between the two lines, and below it where its numbers are from. After the file's name may stand ``grid``
(rows and columns as in the paper, instead of a line for each config) and ``only=PATTERN,...`` (names of configs, or of
the table's rows with ``_`` for spaces).
"""
import os
import re
import textwrap
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import List, Sequence

from mmengine.config import Config

from mmat.utils.files import write_atomic
from mmat.utils.zoo import find_config, zoo_root

from .results import read_csv, shared_batches_note, summarise
from .weights import FOLDER, log_of, read_index

_BEGIN, _END = '<!-- table: ', '<!-- end of table -->'
_BLOCK = re.compile(rf'^({_BEGIN}(\S+)((?: \S+)*) -->\n)(.*?)^({_END})$', re.MULTILINE | re.DOTALL)
_PAGES = ('README.md', 'docs/*.md', 'configs/*/README.md', 'results/README.md', f'{FOLDER}/README.md')
_INDEX = f'{FOLDER}/index.csv'


def update(root: Path, write: bool = True) -> List[Path]:
    """Fill the tables of a checkout's pages.

    Args:
        root (Path): The checkout.
        write (bool): Whether to write, or only to compare. Defaults to True.

    Returns:
        list[Path]: The pages that were not as they should be.

    Raises:
        ValueError: The marks of a page are wrong; no page is written then.
    """
    pages = {page: page.read_text(encoding='utf-8') for pattern in _PAGES for page in sorted(root.glob(pattern))}
    changed = {page: text for page, before in pages.items() if (text := fill(before, page, root)) != before}
    if write:
        for page, text in changed.items():
            write_atomic(page, text.encode())
    return list(changed)


def fill(text: str, page: Path, root: Path) -> str:
    """A page's text with its tables as they should be.

    A table of a recipe that nothing has landed of yet is left as it is.

    Raises:
        ValueError: A mark that has no end, a file that is neither there nor of a recipe, an unknown option, or a
            checkpoint without a row of results.
    """
    if len(_BLOCK.findall(text)) != len(re.findall(f'^{_BEGIN}', text, re.MULTILINE)) or len(
            _BLOCK.findall(text)) != len(re.findall(f'^{_END}', text, re.MULTILINE)):
        raise ValueError(f'{page}: a table is between the lines {_BEGIN}FILE --> and {_END}')

    def replace(match):
        begin, file, options, content, end = match.groups()
        if not (root / file).is_file():
            _check_awaited(file, page, root)
            return match[0]
        made = _index_table(page, root) if file == _INDEX else _results_table(root / file, options.split(), page, root)
        return f'{begin}{made}{end}'

    return _BLOCK.sub(replace, text)


def _check_awaited(file: str, page: Path, root: Path) -> None:
    recipe = re.fullmatch(r'results/(\w+?)(?:_x[\d.e-]+)?\.csv', file)
    if file != _INDEX and not (recipe and (root / 'recipes' / f'{recipe[1]}.py').is_file()):
        known = [_INDEX, *(f'results/{path.stem}.csv' for path in sorted((root / 'recipes').glob('*.py'))),
                 *(f'results/{path.name}' for path in sorted((root / 'results').glob('*.csv')))]
        raise ValueError(f'{page}: there is no {file} and no recipe of that name; did you mean '
                         f'{get_close_matches(file, known, n=1, cutoff=0)[0]}?')


# A table of results

def _results_table(file: Path, options: Sequence[str], page: Path, root: Path) -> str:
    grid, only = False, None
    for option in options:
        if option == 'grid':
            grid = True
        elif option.startswith('only='):
            only = option[5:].split(',')
        else:
            raise ValueError(f'{page}: a table has the options grid and only=PATTERN, got {option!r}')
    everything = read_csv(file)
    rows = [row for row in everything if only is None or any(
        fnmatch(name, each) for each in only for name in (row['config'], row['row'].replace(' ', '_')))]
    if not rows:
        known = ', '.join(sorted({row['config'] for row in everything}))
        raise ValueError(f'{page}: only={",".join(only or ())} leaves nothing of {file.name}; it has {known}')
    lines = _grid(rows, page, root) if grid else _list(rows, file.stem, page, root)
    text = '\n'.join(textwrap.wrap(' '.join(_about(rows, file, page, root, grid)), 120, break_long_words=False,
                                   break_on_hyphens=False))
    return '\n'.join(lines) + f'\n\n{text}\n'


def _list(rows: List[dict], table: str, page: Path, root: Path) -> List[str]:
    """A line for each config: where it has several cells, the first."""
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
    """Rows and columns of the table: the median, and in brackets what is published."""
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
    """What the numbers above are, in sentences."""
    recipe = root / 'recipes' / f'{rows[0]["recipe"]}.py'
    epochs = dict.fromkeys((row['epochs'], row['planned_epochs']) for row in rows)
    shortened = any(trained != planned for trained, planned in epochs)
    published = any(row['published'] is not None for row in rows)
    if shortened:
        which = _and(f'{trained} of {planned}' for trained, planned in epochs)
        yield f'**Shortened: {which} epochs**, with rates and weights of heads scheduled alike' + (
            '; the published numbers are of whole trainings, not to be compared with.' if published else '.')
    else:
        yield f'{_and(trained for trained, _ in epochs)} epochs, as the configs have.'
    counts = sorted({len(cell['values']) for cell in summarise(rows).values()})
    if grid:
        brackets = ', in brackets what is published' if published else ''
        yield (f'Median of {_and(counts, "or")} seeds{brackets}.' if counts[-1] > 1 else
               f'One seed{brackets}.')
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
    yield f'Each run: [{file.relative_to(root)}]({_link(file, page)}), by `python {command}`.'


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
    """Every checkpoint of the repository."""
    content = []
    for entry in read_index(root):
        file = root / 'results' / f'{entry["results"]}.csv'
        row = next((row for row in (read_csv(file) if file.is_file() else ())
                    if (row['config'], row['seed']) == (entry['config'], entry['seed'])), None)
        if row is None:
            raise ValueError(f'{page}: {entry["file"]} has no row in results/{file.name}, seed {entry["seed"]} of '
                             f'{entry["config"]}; tools/misc/land_results.py writes both')
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
    return f'[model]({_link(path, page)}) [log]({_link(log_of(path), page)})'
