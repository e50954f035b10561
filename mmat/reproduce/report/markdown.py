"""A report as Markdown, as GitHub shows it."""
import html
import re
from typing import Dict, List, Sequence

from .content import Cell, Content, Group
from .elements import plain
from .facts import facts_of
from .maps import Maps
from .words import banner, count_runs, describe, describe_maps, failures, legend, scaling_words, time_spent


def render_markdown(content: Content, maps: Dict[Group, Maps]) -> str:
    """The report; its pictures are ``curves*.svg`` and ``attention*.png`` beside it."""
    parts = [f'# {_text(content.title)}', _text(content.note), *_scaled(content),
             f'{count_runs(content)}. {time_spent(content)} Made {content.made} by the recipe '
             f'{_code(content.name)}; all numbers with their origin are in `results.csv`.',
             *_doubts(content), '## Results', render_results(content),
             '\n'.join(f'- {line}' for line in legend(content)), *_curves(content), *_attention(content, maps),
             *_failures(content), *_origins(content)]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _scaled(content: Content) -> List[str]:
    if not content.scalings:
        return []
    lines = [f'**{banner(content)}.**', '']
    lines += [f'- {_text(scaling_words(scaling, content))} ({_code(scaling.options)})' for scaling in content.scalings]
    return ['\n'.join(f'> {line}'.rstrip() for line in lines)]


def _doubts(content: Content) -> List[str]:
    if not content.doubts:
        return []
    return ['## Before you compare', '\n'.join(f'- {_text(doubt)}' for doubt in content.doubts)]


def render_results(content: Content) -> str:
    """The table of numbers alone."""
    return _lines(content) if len(content.columns) == 1 else _grid(content)


def _lines(content: Content) -> str:
    """A single column: a row a line."""
    rows = []
    for row in content.rows:
        cell = content.cells[row, content.columns[0]]
        words = describe(cell, content)
        rows.append([_text(row), _measured(cell, words.measured), words.range, words.seeds,
                     *([words.published, words.difference] if content.has_published else [])])
    titles = [f'{content.measure}, %: median', 'min to max', 'seeds',
              *(['published', 'difference'] if content.has_published else [])]
    return _table(['', *titles], rows)


def _grid(content: Content) -> str:
    """Of each row a line for what is published, and some for what is measured."""
    rows = []
    for row in content.rows:
        cells = [content.cells.get((row, column)) for column in content.columns]
        words = [describe(cell, content) if cell else None for cell in cells]
        lines = {'published': [each.published if each else '' for each in words]} if content.has_published else {}
        lines['measured: median'] = [
            _measured(cell, each.measured) if each else '' for cell, each in zip(cells, words)]
        lines['min to max'] = [each.range if each else '' for each in words]
        lines['seeds'] = [each.seeds if each else '' for each in words]
        if content.has_published:
            lines['difference'] = [each.difference if each else '' for each in words]
        for index, (title, texts) in enumerate(lines.items()):
            rows.append([f'**{_text(row)}**' if index == 0 else '', title, *texts])
    return _table(['', f'{content.measure}, %', *map(_text, content.columns)], rows)


def _measured(cell: Cell, text: str) -> str:
    return f'**{text}**' if cell.is_best else text


def _curves(content: Content) -> List[str]:
    parts = []
    for group in content.groups:
        if group.has_curves:
            parts += [*_heading(group), f'![Test {content.measure} and training loss by epoch, '
                      f'{_text(group.title or "of all rows")}](curves{group.suffix}.svg)']
    if parts:
        parts.insert(0, '## Curves\n\nA thin line is a seed, a thick one the median of the seeds that are done. The '
                        'loss is that which was minimised, with all terms of transfer: it tells seeds apart, not '
                        'methods.')
    return parts


def _attention(content: Content, maps: Dict[Group, Maps]) -> List[str]:
    parts = []
    for group in content.groups:
        drawn = maps[group]
        own = [f'![{_text(describe_maps(drawn.networks, drawn.images))}](attention{group.suffix}.png)'] \
            if drawn.png else []
        own += ['\n'.join(f'- {_text(reason)}' for reason in drawn.missing)] if drawn.missing else []
        if own:
            parts += [*_heading(group), *own]
    return ['## Attention\n\nThe first seed of each network; each map is stretched to its own range.', *parts] \
        if parts else []


def _heading(group: Group) -> List[str]:
    return [f'### {_text(group.title)}'] if group.title else []


def _failures(content: Content) -> List[str]:
    parts = []
    for label, how, log in failures(content):
        parts += [f'### {_text(label)}: {how}', _block(log)]
    return ['## Failed', *parts] if parts else []


def _origins(content: Content) -> List[str]:
    entries = [((cell.row, cell.column), run, facts_of(content, run, cell))
               for cell in content.cells.values() for run in cell.runs if run in content.results]
    entries += [(('', 'teacher'), run, facts_of(content, run)) for run in content.others if run in content.results]
    if not entries:
        return []
    commands = dict.fromkeys(facts['command'] for *_, facts in entries)
    fields = [field for field in dict.fromkeys(field for *_, facts in entries for field in facts) if field != 'command']
    coded = {'config', 'checkpoint', 'SHA-256', "teacher's SHA-256", 'commit', 'settings'}
    rows = [[*map(_text, place), *(
        (_code if field in coded else _text)(facts[field]) if facts.get(field) else '' for field in fields)]
        for place, _, facts in entries]
    return ['## Where each number is from', f'<details><summary>{len(rows)} numbers</summary>',
            _table(['row', 'column', *fields], rows), '</details>',
            '<details><summary>The command lines that train them again</summary>', _block('\n'.join(commands), 'sh'),
            '</details>']


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join(f'| {" | ".join(row)} |' for row in [titles, ['---'] * len(titles), *rows])


def _text(text: object) -> str:
    """Any text as Markdown that shows it, in a table too."""
    text = html.escape(' '.join(plain(text).split()), quote=False)
    return re.sub(r'([\\`*_\[\]|~#])', r'\\\1', text)


def _code(text: object) -> str:
    """As code, in a table too."""
    text = ' '.join(plain(text).split()).replace('|', '\\|')
    fence = '`' * (max(map(len, re.findall('`+', text)), default=0) + 1)
    return f'{fence}{text}{fence}' if fence == '`' else f'{fence} {text} {fence}'


def _block(text: str, language: str = '') -> str:
    """As a block of code, whatever is in it."""
    text = plain(text)
    fence = '`' * max(3, max(map(len, re.findall('`+', text)), default=0) + 1)
    return f'{fence}{language}\n{text}\n{fence}'
