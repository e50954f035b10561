"""Training curves as SVG, in the colours of the page and of the reader's light or dark mode."""
import math
import re
from pathlib import Path
from statistics import median
from typing import Callable, List, Sequence, Tuple

from ..run import Run
from .content import Cell, Group
from .curves import Points
from .elements import Markup, element, join

STYLE = (Path(__file__).parent / 'chart.css').read_text()
# Number of series colours in chart.css; further series are dashed.
COLOURS = 6
WIDTH, HEIGHT = 360, 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 12, 26, 34
# Use a logarithmic scale if max / min is at least this.
_LOGARITHMIC = 4
# Markers at the ends of lines, to distinguish series without colour.
_MARKERS = ('M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0z', 'M-3 -3h6v6h-6z', 'M0 -4l3.8 6.8h-7.6z',
            'M0 -4.2l4.2 4.2l-4.2 4.2l-4.2 -4.2z', 'M0 4l3.8 -6.8h-7.6z', 'M-1.4 -4h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6'
            'h-2.6v-2.8h2.6z')


def draw_curves(group: Group, measure: str) -> List[Markup]:
    """Return two SVG elements for a group: test error (or accuracy) by epoch, and training loss by epoch."""
    return [_svg(_panel(group.cells, series, title), (WIDTH, HEIGHT), label)
            for series, title, label in _panel_titles(group, measure)]


def draw_curves_file(group: Group, measure: str) -> str:
    """Return the panels of :func:`draw_curves` side by side under a legend, as an SVG file."""
    lines, x = [[]], 0
    for index, cell in enumerate(group.cells):
        width = 34 + 6.4 * len(cell.label)
        if lines[-1] and x + width > 2 * WIDTH - 24:
            lines.append([])
            x = 0
        lines[-1].append(element(
            'g', draw_swatch(index), element('text', cell.label, x=22, y=4), class_=series_class(index),
            transform=f'translate({12 + x:.0f} {16 * len(lines)})'))
        x += width
    top = 16 * len(lines) + 8
    height = top + HEIGHT
    panels = [element('g', _panel(group.cells, series, title), transform=f'translate({WIDTH * index} {top})')
              for index, (series, title, _) in enumerate(_panel_titles(group, measure))]
    return _svg(join(element('style', Markup(STYLE)), element('rect', width='100%', height='100%', class_='paper'),
                     *(part for line in lines for part in line), *panels), (2 * WIDTH, height),
                f'Curves of {group.title or "the table"}', xmlns='http://www.w3.org/2000/svg',
                width=2 * WIDTH, height=height)


def draw_swatch(index: int) -> Markup:
    """Return the legend symbol of a series, 16 wide; its parent element needs the class of :func:`series_class`."""
    return join(element('path', d='M0 0H16', class_='median'), _marker(index, 8, 0))


def series_class(index: int) -> str:
    """Return the classes of a series in chart.css."""
    return f'series s{index % COLOURS}' + (' more' if index >= COLOURS else '')


def _panel_titles(group: Group, measure: str) -> List[Tuple[str, str, str]]:
    """Return for each panel the attribute of :class:`Curve` that it shows, its title and its text alternative."""
    medians = [f'{cell.label} {cell.summary["median"]:.2f} %' for cell in group.cells if cell.summary]
    end = f'; final medians: {", ".join(medians)}' if medians else ''
    of = f' of {group.title}' if group.title else ''
    return [('value', f'test {measure}, %', f'Test {measure}{of} by epoch{end}'),
            ('loss', 'training loss', f'Training loss{of} by epoch')]


def _svg(content: Markup, size: Tuple[float, float], label: str, **attributes) -> Markup:
    return element('svg', element('title', label), content, viewBox=f'0 0 {size[0]} {size[1]}', role='img',
                   class_='chart', **attributes)


def _panel(cells: Sequence[Cell], series: str, title: str) -> Markup:
    lines = [[(run, getattr(curve, series)) for run, curve in cell.curves.items() if getattr(curve, series)]
             for cell in cells]
    parts = [element('text', title, x=_LEFT, y=14, class_='name')]
    points = [point for cell in lines for _, line in cell for point in line]
    if not points:
        middle = dict(x=WIDTH / 2, y=HEIGHT / 2, text_anchor='middle')
        return join(*parts, element('text', 'no values logged yet', **middle))
    end = max(run.epochs for cell in cells for run in cell.runs)
    across = _scale(0, end, _LEFT, WIDTH - _RIGHT)
    values = [value for _, value in points]
    up, ticks = _vertical(min(values), max(values))
    for value in ticks:
        parts += [element('path', d=f'M{_LEFT} {up(value):.1f}H{WIDTH - _RIGHT}', class_='grid'),
                  element('text', f'{value:g}', x=_LEFT - 6, y=f'{up(value) + 4:.1f}', text_anchor='end')]
    for epoch in _round_ticks(0, end, 5):
        if epoch == int(epoch):
            parts.append(element('text', f'{epoch:g}', x=f'{across(epoch):.1f}', y=HEIGHT - _BOTTOM + 16,
                                 text_anchor='middle'))
    parts.append(element('text', 'epoch', x=WIDTH - _RIGHT, y=HEIGHT - 4, text_anchor='end'))
    drawn = [_series(index, cell, own, across, up) for index, (cell, own) in enumerate(zip(cells, lines))]
    # Draw all seeds first, then all medians above them.
    for layer in zip(*drawn):
        parts += [element('g', *paths, class_=series_class(index)) for index, paths in enumerate(layer) if paths]
    return join(*parts)


def _series(index: int, cell: Cell, lines: List[Tuple[Run, Points]], across: Callable,
            up: Callable) -> Tuple[List[Markup], List[Markup]]:
    """Return the lines of the seeds, and the median of the finished seeds or, without any, the end of each line."""
    done = [line for run, line in lines if cell.summary and run.seed in cell.summary['values']]
    main = _median(done) if done else []
    seeds = [_draw(line, across, up, 'seed', f'{cell.label}, seed {run.seed}') for run, line in lines if line != main]
    if not main:
        return seeds, [_marker(index, across(line[-1][0]), up(line[-1][1])) for _, line in lines]
    return seeds, [_draw(main, across, up, 'median', f'{cell.label}, median' if len(done) > 1 else cell.label),
                   _marker(index, across(main[-1][0]), up(main[-1][1]))]


def _median(lines: List[Points]) -> Points:
    """Return the median at the epochs where every line has a value."""
    known = [dict(line) for line in lines]
    return [(place, median(each[place] for each in known)) for place in known[0]
            if all(place in each for each in known)]


def _draw(line: Points, across: Callable, up: Callable, kind: str, title: str) -> Markup:
    # Relative steps in tenths of a pixel halve the size of the path. A line of one point becomes a dot.
    places = [(round(10 * across(x)), round(10 * up(y))) for x, y in line]
    steps = [f'{_tenths(x - before[0])}{_joined(y - before[1])}' for before, (x, y) in zip(places, places[1:])]
    (x, y) = places[0]
    return element('path', element('title', title), d=f'M{_tenths(x)}{_joined(y)}l{" ".join(steps) or "0 0"}',
                   class_=kind)


def _tenths(number: int) -> str:
    return re.sub(r'^(-?)0\.', r'\1.', f'{number / 10:g}')


def _joined(number: int) -> str:
    """Format the second number of a pair; a minus sign already separates it from the first."""
    return _tenths(number) if number < 0 else f' {_tenths(number)}'


def _marker(index: int, x: float, y: float) -> Markup:
    return element('path', d=_MARKERS[index % len(_MARKERS)], transform=f'translate({x:.1f} {y:.1f})', class_='end')


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def _vertical(low: float, high: float) -> Tuple[Callable[[float], float], List[float]]:
    """Return the scale of the y axis and the values of its ticks."""
    bottom, top = HEIGHT - _BOTTOM, _TOP
    if low > 0 and high / low >= _LOGARITHMIC:
        steps = [factor * 10.**power for power in range(-12, 13) for factor in (1, 2, 5)]
        scale = _scale(math.log(low), math.log(high), bottom - 6, top + 4)
        ticks = [step for step in steps if low <= step <= high]
        if len(ticks) > 8:
            ticks = [step for step in ticks if f'{step:e}'[0] == '1']
        elif len(ticks) < 3:
            ticks = _round_ticks(low, high, 4)
        return lambda value: scale(math.log(value)), ticks
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    return _scale(low, high, bottom - 6, top + 4), _round_ticks(low, high, 5)


def _round_ticks(low: float, high: float, count: int) -> List[float]:
    """Return round numbers from ``low`` to ``high``, at most ``count + 1``."""
    rough = (high - low) / count
    power = 10.**math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]
