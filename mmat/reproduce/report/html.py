"""Render a report as a self-contained HTML page without scripts, for light and dark mode, phones and print."""
import base64
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from ..run import Run
from . import charts
from .content import Cell, Content, Group
from .elements import Markup, element, join
from .maps import Maps
from .run_details import run_details
from .text import (
    CURVES_CAPTION,
    DAGGER,
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

STYLE = (Path(__file__).parent / 'page.css').read_text()
# The browser must not fetch or run anything that a title or a log contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# Fields shown for each seed, even if they are equal.
_SEED_FIELDS = {'seed', 'state', 'checkpoint', 'SHA-256', 'wall time', 'attempts', 'date'}
_CODE_FIELDS = {'config', 'checkpoint', 'SHA-256', 'teacher SHA-256', 'commit', 'settings', 'command'}


def render_html(content: Content, maps: Dict[Group, Maps]) -> str:
    """Render the report with its pictures embedded."""
    sections = [_results(content), _curves(content), _attention(content, maps), _failures(content)]
    head = element(
        'head', element('meta', charset='utf-8'),
        element('meta', http_equiv='Content-Security-Policy', content=_POLICY),
        element('meta', name='viewport', content='width=device-width, initial-scale=1'),
        element('meta', name='color-scheme', content='light dark'),
        element('meta', name='generator', content='mmat'),
        element('title', content.title), element('style', Markup(charts.STYLE + STYLE)))
    body = element('body', _header(content), element('main', *_warnings(content), *sections), _footer(content))
    return f'<!DOCTYPE html>\n{element("html", head, body, lang="en")}\n'


def _header(content: Content) -> Markup:
    return element('header', element('p', 'mmat · recipe ', element('code', content.name), class_='eyebrow'),
                   element('h1', content.title), element('p', content.note, class_='note'), _status(content))


def _status(content: Content) -> Markup:
    bar = [element('span', class_=state, style=f'flex-grow:{count}')
           for state, count in content.counts.items()]
    return element('div', element('div', *bar, class_='bar', aria_hidden='true'),
                   element('p', f'{run_counts(content)}. {total_time(content)}'), class_='status')


def _warnings(content: Content) -> List[Markup]:
    parts = []
    if content.scalings:
        items = [element('li', scaling_text(scaling, content), ' ', element(
            'details', element('summary', 'settings'), element('code', scaling.options)))
            for scaling in content.scalings]
        parts.append(element('aside', element('h2', scaling_headline(content)), element('ul', *items), class_='banner',
                             aria_label='Changed training length'))
    if content.warnings:
        parts.append(element(
            'aside', element('h2', 'Warnings'),
            element('ul', *(element('li', warning) for warning in content.warnings)), class_='warnings',
            aria_label='Warnings'))
    return parts


# The table

def _results(content: Content) -> Markup:
    table = _lines(content) if len(content.columns) == 1 else _grid(content)
    return element('section', element('h2', 'Results'), table,
                   element('ul', *(element('li', line) for line in legend(content)), class_='legend'),
                   *_other_teachers(content), aria_label='Results')


def _lines(content: Content) -> Markup:
    """Render a table of a single column, a line for each row."""
    titles = [f'{content.measure}, %: median', 'min to max', 'seeds',
              *(['published', 'difference'] if content.has_published else [])]
    rows = []
    for row in content.rows:
        cell = content.cells[row, content.columns[0]]
        text = cell_text(cell, content)
        texts = [_measured(text.measured, cell), text.range or '—', text.seeds]
        if content.has_published:
            texts += [_published(text.published), _difference(text.difference)]
        rows += [_row(element('th', row, scope='row', role='rowheader'), zip(titles, texts)),
                 _provenance_row([cell], len(titles) + 1, content)]
    return _table(['', *titles], rows, f'{content.title}: {content.measure}, %', 'lines')


def _grid(content: Content) -> Markup:
    rows = []
    for row in content.rows:
        cells = [content.cells.get((row, column)) for column in content.columns]
        rows += [_row(element('th', row, scope='row', role='rowheader'),
                      ((column, _stack(cell, content)) for column, cell in zip(content.columns, cells))),
                 _provenance_row([cell for cell in cells if cell], len(content.columns) + 1, content)]
    return _table(['', *content.columns], rows, f'{content.title}: {content.measure}, %', 'grid')


def _stack(cell: Optional[Cell], content: Content) -> Markup:
    """Render a cell: the measured numbers, and below them the published one."""
    if cell is None:
        return element('span', '—', class_='nothing')
    text = cell_text(cell, content)
    parts = [_measured(text.measured, cell), element('span', text.range, class_='range') if text.range else None,
             element('span', text.seeds, class_='seeds')]
    if text.published:
        parts.append(element('span', _published(text.published), ' ', _difference(text.difference), class_='print'))
    return join(*parts)


def _measured(text: str, cell: Cell) -> Markup:
    if not text:
        return element('span', '—', class_='nothing')
    return element('strong' if cell.is_best else 'span', text, class_='measured')


def _published(text: str) -> Markup:
    return element('span', element('span', 'published ', class_='label'), text, class_='published') if text \
        else element('span', '—', class_='nothing')


def _difference(text: str) -> Optional[Markup]:
    if not text:
        return None
    if text.endswith(DAGGER):
        return element('span', text, class_='difference void', title='not comparable: different number of epochs')
    return element('span', text, class_='difference')


def _table(titles: Sequence[str], rows: Sequence[Markup], caption: str, kind: str) -> Markup:
    # On phones, CSS turns rows into cards. The roles keep them rows for assistive technology.
    head = element('tr', *(element('th', title, scope='col', role='columnheader') if title else
                           element('td', role='cell') for title in titles), role='row')
    table = element('table', element('caption', caption), element('thead', head, role='rowgroup'),
                    element('tbody', *rows, role='rowgroup'), class_=f'results {kind}', role='table')
    return element('div', table, class_='scroll', role='region', aria_label='Table of results', tabindex='0')


def _row(header: Markup, cells) -> Markup:
    return element('tr', header, *(element(
        'td', element('span', title, class_='column', aria_hidden='true'), element('div', text, class_='content'),
        role='cell') for title, text in cells), role='row')


# Provenance

def _provenance_row(cells: Sequence[Cell], span: int, content: Content) -> Markup:
    """Render the row below a row of the table: the provenance of its cells, collapsed."""
    single = len(content.columns) == 1
    folded = [_provenance('provenance' if single else cell.column, cell.runs, content, cell)
              for cell in cells if cell.runs]
    if folded and not single:
        folded.insert(0, element('span', 'provenance:'))
    return element('tr', element('td', element('div', *folded, class_='folded'), colspan=span, role='cell'),
                   class_='provenance', role='row')


def _other_teachers(content: Content) -> List[Markup]:
    if not content.other_teachers:
        return []
    return [element('div', element('p', 'Teachers without a cell in the table:'), *(
        _provenance(run.label, [run], content) for run in content.other_teachers), class_='folded')]


def _provenance(title: str, runs: Sequence[Run], content: Content, cell: Optional[Cell] = None) -> Markup:
    """Render the fields that all seeds share, then a table of the fields that differ."""
    details = [run_details(content, run, cell) for run in runs]
    fields = list(dict.fromkeys(field for each in details for field in each))
    values = {field: list(dict.fromkeys(each[field] for each in details if field in each)) for field in fields}
    by_seed = {*_SEED_FIELDS, content.measure} if len(runs) > 1 else set()
    different = [field for field in fields if field != 'command' and (len(values[field]) > 1 or field in by_seed)]
    parts = [element('dl', *(element('div', element('dt', field), element('dd', _value(field, values[field][0])))
                             for field in fields if field not in different and field != 'command'))]
    if different:
        head = element('tr', *(element('th', field, scope='col') for field in different))
        rows = [element('tr', *(element('td', _value(field, each[field]) if field in each else '—')
                                for field in different)) for each in details]
        parts.append(element('div', element('table', element('thead', head), element('tbody', *rows)), class_='scroll',
                             role='region', aria_label=f'Seeds of {title}', tabindex='0'))
    parts += [element('p', 'To train again, run in a checkout:'),
              element('pre', element('code', '\n'.join(each['command'] for each in details)), tabindex='0')]
    return element('details', element('summary', title), element('div', *parts, class_='details'))


def _value(field: str, text: Optional[str]) -> Markup:
    return element('code', text) if field in _CODE_FIELDS else join(text)


# Pictures

def _curves(content: Content) -> Optional[Markup]:
    figures = []
    for group in content.groups:
        if not group.has_curves:
            continue
        legend_items = [element('li', element('svg', charts.draw_swatch(index), viewBox='0 -6 16 12', class_='swatch',
                                              aria_hidden='true'), cell.label, class_=charts.series_class(index))
                        for index, cell in enumerate(group.cells)]
        figures.append(element(
            'figure', element('figcaption', element('h3', group.title)) if group.title else None,
            element('ul', *legend_items, class_='series-names'),
            element('div', *charts.draw_curves(group, content.measure), class_='panels'), class_='card'))
    if not figures:
        return None
    return element('section', element('h2', 'Curves'), element(
        'p', CURVES_CAPTION), *figures, aria_label='Curves')


def _attention(content: Content, maps: Dict[Group, Maps]) -> Optional[Markup]:
    figures = []
    for group in content.groups:
        drawn = maps[group]
        if not drawn.png and not drawn.missing:
            continue
        parts = [element('figcaption', element('h3', group.title)) if group.title else None]
        if drawn.png:
            alt = maps_alt_text(drawn.networks, drawn.images)
            # Scrolls on a phone, fits on a desktop.
            style = f'width:clamp({0.42 * drawn.width:.0f}px,100%,{0.75 * drawn.width:.0f}px)'
            image = element('img', src=f'data:image/png;base64,{base64.b64encode(drawn.png).decode()}', alt=alt,
                            width=drawn.width, height=drawn.height, style=style)
            parts.append(element('div', image, class_='scroll paper', role='region', aria_label='Attention maps',
                                 tabindex='0'))
        parts += [element('p', reason, class_='missing') for reason in drawn.missing]
        figures.append(element('figure', *parts, class_='card'))
    if not figures:
        return None
    return element('section', element('h2', 'Attention'), element(
        'p', f'{MAPS_CAPTION}, from dark (least attention) to red (most).'), *figures, aria_label='Attention')


def _failures(content: Content) -> Optional[Markup]:
    parts = [element('details', element('summary', label, element('span', status, class_='exit')),
                     element('pre', log, tabindex='0'), open=True) for label, status, log in list_failures(content)]
    return element('section', element('h2', 'Failed runs'),
                   element('p', 'The last log lines of each run.'), *parts, class_='failed-runs',
                   aria_label='Failed runs') if parts else None


def _footer(content: Content) -> Markup:
    return element('footer', element('p', f'Created {content.created} from the files on disk. ', element(
        'code', 'results.csv'), ' beside this page lists all numbers with their provenance.'))
