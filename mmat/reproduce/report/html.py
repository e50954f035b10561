"""A report as a page in one file: no script, no request, readable by light and by dark, on a phone and on paper."""
import base64
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from ..run import Run
from . import charts
from .content import BLOCKED, DONE, FAILED, INTERRUPTED, RUNNING, WAITING, Cell, Content, Group
from .elements import Markup, element, join
from .facts import facts_of
from .maps import Maps
from .words import DAGGER, banner, count_runs, describe, describe_maps, failures, legend, scaling_words, time_spent

STYLE = (Path(__file__).parent / 'page.css').read_text()
# Whatever a title or a log may hold: the browser fetches nothing and runs nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STATE_CLASSES = {DONE: 'done', RUNNING: 'running', FAILED: 'failed', INTERRUPTED: 'interrupted', BLOCKED: 'blocked',
                  WAITING: 'waiting'}
# What is told of each seed, also where it happens to be the same.
_OF_A_SEED = {'seed', 'state', 'checkpoint', 'SHA-256', 'wall time', 'times begun', 'date'}
_CODE = {'config', 'checkpoint', 'SHA-256', "teacher's SHA-256", 'commit', 'settings', 'command'}


def render_html(content: Content, maps: Dict[Group, Maps]) -> str:
    """The report, its pictures inside."""
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
    bar = [element('span', class_=_STATE_CLASSES[state], style=f'flex-grow:{count}')
           for state, count in content.counts.items()]
    return element('div', element('div', *bar, class_='bar', aria_hidden='true'),
                   element('p', f'{count_runs(content)}. {time_spent(content)}'), class_='status')


def _warnings(content: Content) -> List[Markup]:
    parts = []
    if content.scalings:
        items = [element('li', scaling_words(scaling, content), ' ', element(
            'details', element('summary', 'settings'), element('code', scaling.options)))
            for scaling in content.scalings]
        parts.append(element('aside', element('h2', banner(content)), element('ul', *items), class_='banner',
                             aria_label='Not the full trainings'))
    if content.doubts:
        parts.append(element(
            'aside', element('h2', 'Before you compare'),
            element('ul', *(element('li', doubt) for doubt in content.doubts)), class_='doubts',
            aria_label='Inconsistencies'))
    return parts


# The table

def _results(content: Content) -> Markup:
    table = _lines(content) if len(content.columns) == 1 else _grid(content)
    return element('section', element('h2', 'Results'), table,
                   element('ul', *(element('li', line) for line in legend(content)), class_='legend'),
                   *_teachers(content), aria_label='Results')


def _lines(content: Content) -> Markup:
    """A single column: a row a line."""
    titles = [f'{content.measure}, %: median', 'min to max', 'seeds',
              *(['published', 'difference'] if content.has_published else [])]
    rows = []
    for row in content.rows:
        cell = content.cells[row, content.columns[0]]
        words = describe(cell, content)
        texts = [_measured(words.measured, cell), words.range or '—', words.seeds]
        if content.has_published:
            texts += [_published(words.published), _difference(words.difference)]
        rows += [_row(element('th', row, scope='row', role='rowheader'), zip(titles, texts)),
                 _origins([cell], len(titles) + 1, content)]
    return _table(['', *titles], rows, f'{content.title}: {content.measure}, %', 'lines')


def _grid(content: Content) -> Markup:
    rows = []
    for row in content.rows:
        cells = [content.cells.get((row, column)) for column in content.columns]
        rows += [_row(element('th', row, scope='row', role='rowheader'),
                      ((column, _stack(cell, content)) for column, cell in zip(content.columns, cells))),
                 _origins([cell for cell in cells if cell], len(content.columns) + 1, content)]
    return _table(['', *content.columns], rows, f'{content.title}: {content.measure}, %', 'grid')


def _stack(cell: Optional[Cell], content: Content) -> Markup:
    """What is measured, and below it what is published."""
    if cell is None:
        return element('span', '—', class_='nothing')
    words = describe(cell, content)
    parts = [_measured(words.measured, cell), element('span', words.range, class_='range') if words.range else None,
             element('span', words.seeds, class_='seeds')]
    if words.published:
        parts.append(element('span', _published(words.published), ' ', _difference(words.difference), class_='print'))
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
        return element('span', text, class_='difference void', title='not comparable: a training of another length')
    return element('span', text, class_='difference')


def _table(titles: Sequence[str], rows: Sequence[Markup], caption: str, kind: str) -> Markup:
    # On a phone rows become cards, and by that, for assistive technology, no longer rows: hence the roles.
    head = element('tr', *(element('th', title, scope='col', role='columnheader') if title else
                           element('td', role='cell') for title in titles), role='row')
    table = element('table', element('caption', caption), element('thead', head, role='rowgroup'),
                    element('tbody', *rows, role='rowgroup'), class_=f'results {kind}', role='table')
    return element('div', table, class_='scroll', role='region', aria_label='Table of results', tabindex='0')


def _row(header: Markup, cells) -> Markup:
    return element('tr', header, *(element(
        'td', element('span', title, class_='column', aria_hidden='true'), element('div', text, class_='content'),
        role='cell') for title, text in cells), role='row')


# Where numbers are from

def _origins(cells: Sequence[Cell], span: int, content: Content) -> Markup:
    """Below a row of the table: what is behind each of its numbers, folded away."""
    single = len(content.columns) == 1
    folded = [_origin('where from' if single else cell.column, cell.runs, content, cell) for cell in cells if cell.runs]
    if folded and not single:
        folded.insert(0, element('span', 'where from:'))
    return element('tr', element('td', element('div', *folded, class_='folded'), colspan=span, role='cell'),
                   class_='origins', role='row')


def _teachers(content: Content) -> List[Markup]:
    if not content.others:
        return []
    return [element('div', element('p', 'Teachers that are no number of the table:'), *(
        _origin(run.label, [run], content) for run in content.others), class_='folded')]


def _origin(title: str, runs: Sequence[Run], content: Content, cell: Optional[Cell] = None) -> Markup:
    """What all seeds have in common, then what each has of its own."""
    facts = [facts_of(content, run, cell) for run in runs]
    fields = list(dict.fromkeys(field for each in facts for field in each))
    values = {field: list(dict.fromkeys(each[field] for each in facts if field in each)) for field in fields}
    apart = len(runs) > 1 and {*_OF_A_SEED, content.measure}
    own = [field for field in fields if field != 'command' and (len(values[field]) > 1 or apart and field in apart)]
    parts = [element('dl', *(element('div', element('dt', field), element('dd', _fact(field, values[field][0])))
                             for field in fields if field not in own and field != 'command'))]
    if own:
        head = element('tr', *(element('th', field, scope='col') for field in own))
        rows = [element('tr', *(element('td', _fact(field, each[field]) if field in each else '—') for field in own))
                for each in facts]
        parts.append(element('div', element('table', element('thead', head), element('tbody', *rows)), class_='scroll',
                             role='region', aria_label=f'Seeds of {title}', tabindex='0'))
    parts += [element('p', 'To do it again, in a checkout:'),
              element('pre', element('code', '\n'.join(each['command'] for each in facts)), tabindex='0')]
    return element('details', element('summary', title), element('div', *parts, class_='facts'))


def _fact(field: str, text: Optional[str]) -> Markup:
    return element('code', text) if field in _CODE else join(text)


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
            element('div', *charts.draw_panels(group, content.measure), class_='panels'), class_='card'))
    if not figures:
        return None
    return element('section', element('h2', 'Curves'), element(
        'p', 'A thin line is a seed, a thick one the median of the seeds that are done. The loss is that which was '
        'minimised, with all terms of transfer: it tells seeds apart, not methods.'), *figures, aria_label='Curves')


def _attention(content: Content, maps: Dict[Group, Maps]) -> Optional[Markup]:
    figures = []
    for group in content.groups:
        drawn = maps[group]
        if not drawn.png and not drawn.missing:
            continue
        parts = [element('figcaption', element('h3', group.title)) if group.title else None]
        if drawn.png:
            words = describe_maps(drawn.networks, drawn.images)
            # On a phone it scrolls, on a desktop it is seen whole.
            style = f'width:clamp({0.42 * drawn.width:.0f}px,100%,{0.75 * drawn.width:.0f}px)'
            image = element('img', src=f'data:image/png;base64,{base64.b64encode(drawn.png).decode()}', alt=words,
                            width=drawn.width, height=drawn.height, style=style)
            parts.append(element('div', image, class_='scroll paper', role='region', aria_label='Attention maps',
                                 tabindex='0'))
        parts += [element('p', reason, class_='missing') for reason in drawn.missing]
        figures.append(element('figure', *parts, class_='card'))
    if not figures:
        return None
    return element('section', element('h2', 'Attention'), element(
        'p', 'The first seed of each network; each map is stretched to its own range, from dark, where the network '
        'looks least, to red.'), *figures, aria_label='Attention')


def _failures(content: Content) -> Optional[Markup]:
    parts = [element('details', element('summary', label, element('span', how, class_='how')),
                     element('pre', log, tabindex='0'), open=True) for label, how, log in failures(content)]
    return element('section', element('h2', 'Failed'), element('p', 'The ends of their logs.'), *parts,
                   class_='failed-runs', aria_label='Failed') if parts else None


def _footer(content: Content) -> Markup:
    return element('footer', element('p', f'Made {content.made} from what lay on disk. ', element(
        'code', 'results.csv'), ' beside this page has all numbers with their origin.'))
