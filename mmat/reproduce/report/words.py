"""Wording that the page and the Markdown share."""
from dataclasses import dataclass
from typing import List

from ..joint_runs import joint_label, split_by_failure
from ..results import shared_batches_note
from .content import DONE, FAILED, INTERRUPTED, RUNNING, STATES, Cell, Content, Scaling
from .facts import duration


@dataclass
class Words:
    """A cell of the table in words; empty where there is nothing to say.

    Attributes:
        measured (str): The median.
        range (str): From the smallest to the largest.
        seeds (str): Of how many seeds, and what became of the others.
        published (str): The number in print.
        difference (str): Median minus published, with its sign; a dagger where the two cannot be compared.
    """
    measured: str = ''
    range: str = ''
    seeds: str = ''
    published: str = ''
    difference: str = ''


DAGGER = '†'


def describe(cell: Cell, content: Content) -> Words:
    """What the table says of a cell."""
    words = Words(seeds=_seeds(cell, content))
    if cell.published is not None:
        words.published = f'{cell.published:.2f}'
    if cell.summary:
        words.measured = f'{cell.summary["median"]:.2f}'
        if len(cell.summary['values']) > 1:
            words.range = f'{cell.summary["min"]:.2f} to {cell.summary["max"]:.2f}'
        if cell.published is not None:
            words.difference = _signed(cell.summary['difference']) + ('' if cell.is_comparable else DAGGER)
    return words


def _signed(difference: float) -> str:
    text = f'{difference:+.2f}'
    return '0.00' if float(text) == 0 else text.replace('-', '\N{MINUS SIGN}')


def _seeds(cell: Cell, content: Content) -> str:
    if not cell.runs:
        return 'left out'
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
        where = f' (epoch {steps[-1][0]:g} of {run.epochs})' if steps and state in (RUNNING, INTERRUPTED) else ''
        others[state + where] = others.get(state + where, 0) + 1
    rest = ', '.join(f'{count} {state}' if total > 1 else state for state, count in others.items())
    if list(others) == ['not begun'] and not done:
        return 'not begun'
    return f'{done} of {total} seeds; {rest}' if total > 1 else rest


def unit(content: Content) -> str:
    """What the numbers are, for the table's caption."""
    return f'{content.measure} in percent, {"lower" if content.measure == "error" else "higher"} is better'


def legend(content: Content) -> List[str]:
    """How to read the table, a sentence each."""
    lines = [f'Measured: the median over the seeds, {unit(content)}; below it from the smallest to the largest seed.'
             if len(content.columns) > 1 else f'Measured: the median over the seeds, {unit(content)}.']
    if content.has_published:
        lines.append('Difference: measured minus published, in percentage points.')
    if any(describe(cell, content).difference.endswith(DAGGER) for cell in content.cells.values()):
        lines.append(f'{DAGGER} Not comparable with the published number: the training was not as long as its config '
                     'says.')
    if shared_batches_note(content.measured):
        lines.append(shared_batches_note(content.measured))
    if any(cell.is_best for cell in content.cells.values()):
        lines.append('Bold: each of its seeds is better than every seed of those that it stands beside, teachers left '
                     'out.')
    return lines


def count_runs(content: Content) -> str:
    """Such as '3 of 24 runs are done, 1 running, 20 not begun'."""
    total = len(content.states)
    counts = dict(content.counts)
    done = counts.pop(DONE, 0)
    words = f'{done} of {total} run{"s" if total > 1 else ""} {"is" if total == 1 else "are"} done'
    return ', '.join([words, *(f'{count} {state}' for state, count in counts.items())])


def time_spent(content: Content) -> str:
    """How long what is done took, a sentence; empty where nothing is."""
    seconds = sum(result['wall_time'] for result in content.results.values())
    return f'Those that are done trained for {duration(seconds)} in all.' if content.results else ''


def banner(content: Content) -> str:
    """The headline above a table of shortened trainings."""
    if all(scaling.epochs < scaling.planned for scaling in content.scalings):
        kind = 'Shortened trainings'
    else:
        kind = 'Trainings of another length'
    whose = 'published' if content.has_published else "recipe's"
    return f'{kind}: these are not the {whose} experiments'


def scaling_words(scaling: Scaling, content: Content) -> str:
    """Such as '10 of 200 epochs'."""
    everything = len({run.name for run in content.states}) == len(scaling.names)
    return f'{scaling.epochs} epochs in place of {scaling.planned}: ' + (
        'all trainings' if everything else ', '.join(scaling.names))


def failures(content: Content) -> list:
    """What failed, what became of it, and the end of its log: of each run, or of seeds that failed together."""
    failed = []
    for group in split_by_failure([run for run, state in content.states.items() if state == FAILED]):
        failure = group[0].failure
        if failure:
            status = failure['status']
            how = f'ended by signal {-status}' if status < 0 else f'exit status {status}'
            failed.append((joint_label(group), how, '\n'.join(failure['log'])))
    return failed


def describe_maps(networks: List[str], images: List[str]) -> str:
    """What a picture of attention shows, for those who do not see it."""
    of = f' of {", ".join(images)}' if images else ''
    return f'Attention maps of {", ".join(networks)} for the same test images{of}.'
