"""Render a report as GitHub Markdown."""
import html
import re
from typing import Dict, List, Sequence

from .content import Cell, Content, Group
from .elements import plain
from .maps import Maps
from .run_details import run_details
from .text import (
    CURVES_CAPTION,
    MAPS_CAPTION,
    cell_text,
    legend,
    list_failures,
    maps_alt_text,
    run_counts,
    scaling_headline,
    scaling_text,
    total_time,
)


def render_markdown(content: Content, maps: Dict[Group, Maps]) -> str:
    """Render the report; it links to the pictures ``curves*.svg`` and ``attention*.png`` beside it."""
    parts = [f'# {_text(content.title)}', _text(content.note), *_scalings(content),
             f'{run_counts(content)}. {total_time(content)} Created {content.created} from the recipe '
             f'{_code(content.name)}. `results.csv` lists all numbers with their provenance.',
             *_warnings(content), '## Results', render_results(content),
             '\n'.join(f'- {line}' for line in legend(content)), *_curves(content), *_attention(content, maps),
             *_failures(content), *_provenance(content)]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _scalings(content: Content) -> List[str]:
    if not content.scalings:
        return []
    lines = [f'**{scaling_headline(content)}.**', '']
    lines += [f'- {_text(scaling_text(scaling, content))} ({_code(scaling.options)})' for scaling in content.scalings]
    return ['\n'.join(f'> {line}'.rstrip() for line in lines)]


def _warnings(content: Content) -> List[str]:
    if not content.warnings:
        return []
    return ['## Warnings', '\n'.join(f'- {_text(warning)}' for warning in content.warnings)]


def render_results(content: Content) -> str:
    """Render the table of numbers alone."""
    return _lines(content) if len(content.columns) == 1 else _grid(content)


def _lines(content: Content) -> str:
    """Render a table of a single column, a line for each row."""
    rows = []
    for row in content.rows:
        cell = content.cells[row, content.columns[0]]
        text = cell_text(cell, content)
        rows.append([_text(row), _measured(cell, text.measured), text.range, text.seeds,
                     *([text.published, text.difference] if content.has_published else [])])
    titles = [f'{content.measure}, %: median', 'min to max', 'seeds',
              *(['published', 'difference'] if content.has_published else [])]
    return _table(['', *titles], rows)


def _grid(content: Content) -> str:
    """Render a table of several columns: for each row, lines for published, measured, range, seeds and difference."""
    rows = []
    for row in content.rows:
        cells = [content.cells.get((row, column)) for column in content.columns]
        texts = [cell_text(cell, content) if cell else None for cell in cells]
        lines = {'published': [each.published if each else '' for each in texts]} if content.has_published else {}
        lines['measured: median'] = [
            _measured(cell, each.measured) if each else '' for cell, each in zip(cells, texts)]
        lines['min to max'] = [each.range if each else '' for each in texts]
        lines['seeds'] = [each.seeds if each else '' for each in texts]
        if content.has_published:
            lines['difference'] = [each.difference if each else '' for each in texts]
        for index, (title, line) in enumerate(lines.items()):
            rows.append([f'**{_text(row)}**' if index == 0 else '', title, *line])
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
        parts.insert(0, f'## Curves\n\n{CURVES_CAPTION}')
    return parts


def _attention(content: Content, maps: Dict[Group, Maps]) -> List[str]:
    parts = []
    for group in content.groups:
        drawn = maps[group]
        lines = [f'![{_text(maps_alt_text(drawn.networks, drawn.images))}](attention{group.suffix}.png)'] \
            if drawn.png else []
        lines += ['\n'.join(f'- {_text(reason)}' for reason in drawn.missing)] if drawn.missing else []
        if lines:
            parts += [*_heading(group), *lines]
    return [f'## Attention\n\n{MAPS_CAPTION}.', *parts] if parts else []


def _heading(group: Group) -> List[str]:
    return [f'### {_text(group.title)}'] if group.title else []


def _failures(content: Content) -> List[str]:
    parts = []
    for label, status, log in list_failures(content):
        parts += [f'### {_text(label)}: {status}', _block(log)]
    return ['## Failed runs\n\nThe last log lines of each run.', *parts] if parts else []


def _provenance(content: Content) -> List[str]:
    entries = [((cell.row, cell.column), run, run_details(content, run, cell))
               for cell in content.cells.values() for run in cell.runs if run in content.results]
    entries += [(('', 'teacher'), run, run_details(content, run))
                for run in content.other_teachers if run in content.results]
    if not entries:
        return []
    commands = dict.fromkeys(details['command'] for *_, details in entries)
    fields = list(dict.fromkeys(field for *_, details in entries for field in details if field != 'command'))
    coded = {'config', 'checkpoint', 'SHA-256', 'teacher SHA-256', 'commit', 'settings'}
    rows = [[*map(_text, place), *(
        (_code if field in coded else _text)(details[field]) if details.get(field) else '' for field in fields)]
        for place, _, details in entries]
    return ['## Provenance', f'<details><summary>{len(rows)} numbers</summary>',
            _table(['row', 'column', *fields], rows), '</details>',
            '<details><summary>Commands that train these runs again</summary>', _block('\n'.join(commands), 'sh'),
            '</details>']


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join(f'| {" | ".join(row)} |' for row in [titles, ['---'] * len(titles), *rows])


def _text(text: object) -> str:
    """Escape a text for Markdown, including its tables."""
    text = html.escape(' '.join(plain(text).split()), quote=False)
    return re.sub(r'([\\`*_\[\]|~#])', r'\\\1', text)


def _code(text: object) -> str:
    """Format a text as inline code, including in tables."""
    text = ' '.join(plain(text).split()).replace('|', '\\|')
    fence = '`' * (max(map(len, re.findall('`+', text)), default=0) + 1)
    return f'{fence}{text}{fence}' if fence == '`' else f'{fence} {text} {fence}'


def _block(text: str, language: str = '') -> str:
    """Format a text as a block of code, with a fence that the text does not contain."""
    text = plain(text)
    fence = '`' * max(3, max(map(len, re.findall('`+', text)), default=0) + 1)
    return f'{fence}{language}\n{text}\n{fence}'
