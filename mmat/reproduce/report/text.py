"""Texts shared by the HTML page and the Markdown report."""
from dataclasses import dataclass
from typing import List, Tuple

from ..joint_runs import joint_label, split_by_failure
from ..progress import exit_text
from ..results import shared_batches_note
from ..states import DONE, FAILED, INTERRUPTED, RUNNING, STATES, WAITING
from .content import Cell, Content, Scaling
from .run_details import format_duration


@dataclass
class CellText:
    """The texts of a cell of the table; empty if there is nothing to show.

    Attributes:
        measured (str): The median.
        range (str): Minimum to maximum.
        seeds (str): Number of finished seeds and the states of the others.
        published (str): The published number.
        difference (str): Median minus published, with its sign; with a dagger if the two are not comparable.
    """
    measured: str = ''
    range: str = ''
    seeds: str = ''
    published: str = ''
    difference: str = ''


DAGGER = '†'


def cell_text(cell: Cell, content: Content) -> CellText:
    """Return the texts of a cell."""
    text = CellText(seeds=_seeds(cell, content))
    if cell.published is not None:
        text.published = f'{cell.published:.2f}'
    if cell.summary:
        text.measured = f'{cell.summary["median"]:.2f}'
        if len(cell.summary['values']) > 1:
            text.range = f'{cell.summary["min"]:.2f} to {cell.summary["max"]:.2f}'
        if cell.published is not None:
            text.difference = _signed(cell.summary['difference']) + ('' if cell.is_comparable else DAGGER)
    return text


def _signed(difference: float) -> str:
    text = f'{difference:+.2f}'
    return '0.00' if float(text) == 0 else text.replace('-', '\N{MINUS SIGN}')


def _seeds(cell: Cell, content: Content) -> str:
    if not cell.runs:
        return 'not selected'
    done = len(cell.summary['values']) if cell.summary else 0
    total = len(cell.runs)
    if done == total:
        return f'{total} seed{"s" if total > 1 else ""}'
    others: dict = {}
    for run in sorted(cell.runs, key=lambda run: STATES.index(content.states[run])):
        state = content.states[run]
        if state == DONE:
            continue
        steps = cell.curves[run].value
        epoch = f' (epoch {steps[-1][0]:g} of {run.epochs})' if steps and state in (RUNNING, INTERRUPTED) else ''
        others[state + epoch] = others.get(state + epoch, 0) + 1
    rest = ', '.join(f'{count} {state}' if total > 1 else state for state, count in others.items())
    if list(others) == [WAITING] and not done:
        return WAITING
    return f'{done} of {total} seeds; {rest}' if total > 1 else rest


def legend(content: Content) -> List[str]:
    """Return the legend of the table, a sentence each."""
    unit = f'{content.measure} in percent ({"lower" if content.measure == "error" else "higher"} is better)'
    lines = [f'Measured: median over the seeds, {unit}' + (
        '; below it, minimum to maximum over the seeds.' if len(content.columns) > 1 else '.')]
    if content.has_published:
        lines.append('Difference: measured minus published, in percentage points.')
    if any(cell_text(cell, content).difference.endswith(DAGGER) for cell in content.cells.values()):
        lines.append(f'{DAGGER} Not comparable with the published number: the number of epochs differs from the '
                     'config.')
    if shared_batches_note(content.result_rows):
        lines.append(shared_batches_note(content.result_rows))
    if any(cell.is_best for cell in content.cells.values()):
        lines.append('Bold: every seed is better than every seed of the other results in its group, teachers excluded.')
    return lines


def run_counts(content: Content) -> str:
    """Return a summary such as '3 of 24 runs are done, 1 running, 20 waiting'."""
    total = len(content.states)
    counts = dict(content.counts)
    done = counts.pop(DONE, 0)
    text = f'{done} of {total} run{"s" if total > 1 else ""} {"is" if total == 1 else "are"} done'
    return ', '.join([text, *(f'{count} {state}' for state, count in counts.items())])


def total_time(content: Content) -> str:
    """Return a sentence with the training time of the finished runs; empty if there are none."""
    seconds = sum(result['wall_time'] for result in content.results.values())
    return f'The finished runs trained for {format_duration(seconds)} in total.' if content.results else ''


def scaling_headline(content: Content) -> str:
    """Return the headline of the warning about runs whose number of epochs differs from their config."""
    if all(scaling.epochs < scaling.planned for scaling in content.scalings):
        kind = 'Shortened training'
    else:
        kind = 'Changed training length'
    return f'{kind}: not comparable with the {"published" if content.has_published else "full"} experiments'


def scaling_text(scaling: Scaling, content: Content) -> str:
    """Return a text such as '10 epochs instead of 200: all runs'."""
    everything = len({run.name for run in content.states}) == len(scaling.names)
    return f'{scaling.epochs} epochs instead of {scaling.planned}: ' + (
        'all runs' if everything else ', '.join(scaling.names))


def list_failures(content: Content) -> List[Tuple[str, str, str]]:
    """Return label, exit status and last log lines of each failed run; seeds that failed together are one entry."""
    failed = []
    for group in split_by_failure([run for run, state in content.states.items() if state == FAILED]):
        failure = group[0].failure
        if failure:
            failed.append((joint_label(group), exit_text(failure), '\n'.join(failure['log'])))
    return failed


def maps_alt_text(networks: List[str], images: List[str]) -> str:
    """Return the text alternative of a picture of attention maps."""
    classes = f' of {", ".join(images)}' if images else ''
    return f'Attention maps of {", ".join(networks)} for the same test images{classes}.'


CURVES_CAPTION = ('Thin lines are single seeds, thick lines the median of the finished seeds. The loss includes all '
                  'transfer terms: compare it between seeds of one method, not between methods.')
MAPS_CAPTION = 'The first seed of each network. Each map is scaled to its own range'
