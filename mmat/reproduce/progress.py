"""How far the trainings of a table are, for whoever looks on."""
import heapq
import signal
import time
from contextlib import contextmanager
from functools import partial
from typing import Callable, Dict, Iterator, List, Optional

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .joint_runs import joint_label, split_by_failure, split_into_jobs
from .pool import BLOCKED, DONE, FAILED, RUNNING, WAITING
from .run import Run
from .run_log import METRIC, RunLog

_STYLES = {DONE: 'green', FAILED: 'bold red', BLOCKED: 'red', RUNNING: 'cyan', WAITING: 'dim'}


@contextmanager
def show_progress(title: str, jobs: int, measure: str = 'error',
                  console: Optional[Console] = None) -> Iterator[Callable[[Dict[Run, str]], None]]:
    """Show how far the trainings are: a live table in a terminal, elsewhere a line for each event.

    Args:
        title (str): Of the table of results.
        jobs (int): How many run at a time; the time left is estimated from it.
        measure (str): What is shown of a run, its 'error' or 'accuracy'. Defaults to 'error'.
        console (Console, optional): Where to. Defaults to None, the standard output.

    Yields:
        Callable: What :func:`~mmat.reproduce.pool.execute` calls with the state of every run.
    """
    console = console or Console()
    if not console.is_interactive:
        yield PlainProgress(title, jobs, measure, partial(print, file=console.file, flush=True))
        return
    table = LiveProgress(title, jobs, measure)
    # It draws when it is called, without a thread of its own.
    with Live(table, console=console, auto_refresh=False) as live:
        table.draw = live.refresh
        yield table


class Progress:
    """What is known of the trainings, from what is on disk, and how long they will take.

    Args:
        title (str): Of the table of results. Defaults to none.
        jobs (int): How many run at a time. Defaults to 1.
        measure (str): 'error' or 'accuracy'. Defaults to 'error'.
    """

    def __init__(self, title: str = '', jobs: int = 1, measure: str = 'error'):
        self.title, self.jobs, self.measure = title, jobs, measure
        self.start = time.monotonic()
        self.states: Dict[Run, str] = {}
        self.logs: Dict[Run, RunLog] = {}
        self.results: Dict[Run, dict] = {}

    def look(self, states: Dict[Run, str]) -> None:
        """Read what is new of the runs that are under way, and the results of those that are done."""
        self.states = dict(states)
        for run, state in states.items():
            if state == RUNNING or state == FAILED and run not in self.logs:
                self.logs.setdefault(run, RunLog(run)).read()
            elif state == DONE and run not in self.results:
                result = run.result
                if result:
                    self.results[run] = result

    def in_state(self, state: str) -> List[Run]:
        return [run for run, each in self.states.items() if each == state]

    def count(self, state: str) -> int:
        return len(self.in_state(state))

    def value(self, run: Run) -> Optional[float]:
        """Its last error, or accuracy, in percent."""
        accuracy = self.results[run]['metrics'].get(METRIC) if run in self.results else (
            self.logs[run].accuracy if run in self.logs else None)
        return 100 - accuracy if accuracy is not None and self.measure == 'error' else accuracy

    def paces(self) -> Dict[str, float]:
        """Seconds of an epoch of each config of which something is known, the mean of its runs.

        Of runs that are trained in one process it is a run's share.
        """
        known: Dict[str, List[float]] = {}
        for group in split_into_jobs(self.in_state(RUNNING)):
            for run in group:
                if self.logs[run].pace is not None:
                    known.setdefault(run.name, []).append(self.logs[run].pace / len(group))
        for run, result in self.results.items():
            known.setdefault(run.name, []).append(result['wall_time'] / run.epochs)
        return {name: sum(each) / len(each) for name, each in known.items()}

    def left(self, run: Run) -> Optional[float]:
        """Seconds that a run which is under way still takes, None where nothing is known of its config."""
        groups = split_into_jobs(self.in_state(RUNNING))
        return next(self._left_of(group, self.paces()) for group in groups if run in group)

    def _left_of(self, group: List[Run], paces: Dict[str, float]) -> Optional[float]:
        """Seconds that a process takes for its runs: as long as for the last of them."""
        share = paces.get(group[0].name)
        usual = None if share is None else share * len(group)
        left = [self.logs[run].left(self.logs[run].pace or usual) for run in group]
        return max((each for each in left if each is not None), default=None)

    def left_of_all(self) -> Optional[float]:
        """Seconds that all still take, so many at a time and students after their teachers; None at the beginning.

        Runs of configs of which nothing is known are taken to be as long as the others'.
        """
        paces = self.paces()
        if not paces:
            return None
        usual = sum(paces[name] * epochs for name, epochs in {
            run.name: run.epochs for run in self.states if run.name in paces}.items()) / len(paces)
        paces = {run.name: paces.get(run.name, usual / run.epochs) for run in self.states}
        under_way = split_into_jobs(self.in_state(RUNNING))
        ends = {run: self._left_of(group, paces) for group in under_way for run in group}
        free = [*(ends[group[0]] for group in under_way), *[0.] * (self.jobs - len(under_way))]
        heapq.heapify(free)
        for group in split_into_jobs(self.in_state(WAITING)):
            begin = max(heapq.heappop(free), ends.get(group[0].teacher, 0.))
            end = begin + sum(run.epochs * paces[run.name] for run in group)
            ends.update(dict.fromkeys(group, end))
            heapq.heappush(free, end)
        return max(ends.values(), default=0.)


class PlainProgress(Progress):
    """A line for each event: for logs, and terminals that cannot do better.

    Args:
        title, jobs, measure: See :class:`Progress`.
        write (Callable, optional): Takes a line. Defaults to None: it is printed.
        pause (float): Seconds between two lines on the validations of a run. Defaults to 30.
    """

    def __init__(self, title: str = '', jobs: int = 1, measure: str = 'error',
                 write: Optional[Callable[[str], None]] = None, pause: float = 30.):
        super().__init__(title, jobs, measure)
        self.write, self.pause = write or partial(print, flush=True), pause
        self.told: Dict[Run, tuple] = {}

    def __call__(self, states: Dict[Run, str]) -> None:
        before = self.states
        self.look(states)
        if not before:
            self.tell(f'{self.title}: {len(states)} trainings, {self.count(DONE)} of them done before')
        for run, state in states.items():
            if state != before.get(run, DONE if not before else None) and state != WAITING:
                self.told[run] = (time.monotonic(), 0)
                self.tell(f'{state:8s} {run.label}{self.detail(run)}')
            elif state == RUNNING:
                moment, epoch = self.told.get(run, (0., 0))
                if self.logs[run].validated > epoch and time.monotonic() - moment >= self.pause:
                    self.told[run] = (time.monotonic(), self.logs[run].validated)
                    self.tell(f'{state:8s} {run.label}{self.detail(run)}')

    def detail(self, run: Run) -> str:
        state, value = self.states[run], self.value(run)
        number = '' if value is None else f'{self.measure} {value:.2f} %'
        if state == FAILED:
            return f': {_exit_of(run)}, see {run.log}'
        if state == BLOCKED:
            return f': {_culprit(run, self.states).label} failed, which was to teach'
        if state == RUNNING and self.logs[run].validated:
            left = self.left(run)
            return f': epoch {self.logs[run].validated}/{run.epochs}, {number}' + (
                '' if left is None else f', {clock(left)} left')
        return f': {number}' if state == DONE and number else ''

    def tell(self, text: str) -> None:
        left = self.left_of_all()
        self.write(f'[{clock(time.monotonic() - self.start)}] {text}   [{self.count(DONE)}/{len(self.states)}' + (
            f', about {clock(left)} left]' if left else ']'))


class LiveProgress(Progress):
    """A table with a line for each run, that is drawn again as they go on, within the height of the terminal."""

    draw: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, title: str, jobs: int, measure: str = 'error'):
        super().__init__(title, jobs, measure)
        self.drawn = 0.
        self.ended: List[Run] = []

    def __call__(self, states: Dict[Run, str]) -> None:
        changed = states != self.states
        self.ended += [run for run, state in states.items() if state == DONE and self.states.get(run) != DONE]
        self.look(states)
        # Drawing takes 30 ms, of what the trainings use, too.
        if changed or time.monotonic() - self.drawn >= 2:
            self.drawn = time.monotonic()
            self.draw()

    def __rich_console__(self, console: Console, options):
        if not self.states:
            return
        yield Text(self.title, style='bold', no_wrap=True, overflow='ellipsis')
        counts = [f'{self.count(state)} {state}' for state in (FAILED, BLOCKED, RUNNING) if self.count(state)]
        left = self.left_of_all()
        times = [f'{clock(time.monotonic() - self.start)} elapsed', *([f'about {clock(left)} left'] if left else [])]
        yield Text(f'{", ".join([f"{self.count(DONE)}/{len(self.states)} done", *counts])}; {", ".join(times)}',
                   no_wrap=True, overflow='ellipsis')
        # Two lines are above, one heads the table, one tells of the rest, one is the cursor's.
        shown = self.choose(max(1, console.height - 5))
        yield self.table(shown, console.width)
        rest = [f'{number} {state}' for state in _STYLES
                if (number := sum(self.states[run] == state for run in self.states.keys() - set(shown)))]
        if rest:
            yield Text(f'not shown: {", ".join(rest)}', style='dim', no_wrap=True, overflow='ellipsis')

    def choose(self, room: int) -> List[Run]:
        """The runs to show: all, or those that run and failed, the last that ended and the next to begin."""
        runs = list(self.states)
        if len(runs) <= room + 1:
            return runs
        those = {state: [run for run in runs if self.states[run] == state] for state in _STYLES}
        running = those[RUNNING][:room]
        failed = those[FAILED][:room - len(running)]
        spare = room - len(running) - len(failed)
        ended = self.ended[-((spare + 1) // 2):] if spare else []
        waiting = those[WAITING][:spare - len(ended)]
        return [*ended, *failed, *running, *waiting]

    def table(self, runs: List[Run], width: int) -> Table:
        lines = [(run, self.states[run], self.detail(run)) for run in runs]
        bar = 20 if width >= 100 else 0
        widths = dict(state=7, seed=max([4, *(len(str(run.seed)) for run in runs)]),
                      epoch=max([5, *(len(detail) for *_, detail in lines)]), number=len(self.measure) + 2, left=8)
        room = width - sum(widths.values()) - bar - len(widths) - bool(bar)
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style='dim')
        table.add_column('', width=widths['state'], no_wrap=True)
        table.add_column('config', width=max(8, min(room, max(len(run.name) for run in runs))), no_wrap=True,
                         overflow='ellipsis')
        table.add_column('seed', width=widths['seed'], justify='right', no_wrap=True)
        table.add_column('epoch', width=widths['epoch'], no_wrap=True, overflow='ellipsis')
        if bar:
            table.add_column('', width=bar)
        table.add_column(f'{self.measure} %', width=widths['number'], justify='right', no_wrap=True)
        table.add_column('left', width=widths['left'], justify='right', no_wrap=True)
        for run, state, detail in lines:
            value, left = self.value(run), self.left(run) if state == RUNNING else None
            epoch = self.logs[run].epoch if run in self.logs else 0
            bars = [ProgressBar(run.epochs, epoch, width=bar) if state == RUNNING else ''] if bar else []
            table.add_row(Text(state, style=_STYLES[state]), Text(run.name), str(run.seed), Text(detail), *bars,
                          '' if value is None else f'{value:.2f}', '' if left is None else clock(left),
                          style=_STYLES[WAITING] if state in (WAITING, BLOCKED) else None)
        return table

    def detail(self, run: Run) -> str:
        """Where it is, in a few words."""
        state = self.states[run]
        if state == WAITING:
            return 'for its teacher' if self.states.get(run.teacher, DONE) != DONE else ''
        if state == BLOCKED:
            return 'no teacher'
        if state == FAILED:
            return _exit_of(run)
        done = run.epochs if state == DONE else int(self.logs[run].epoch)
        resumed = self.logs[run].resumed if state == RUNNING else None
        return f'{done:>{len(str(run.epochs))}}/{run.epochs}' + (f' from {resumed}' if resumed else '')


def failures(states: Dict[Run, str]) -> str:
    """What failed and why, what that held up, and how to start again.

    Args:
        states (dict): Run -> state, as :func:`~mmat.reproduce.pool.execute` gives them.

    Returns:
        str: Some paragraphs; '' where nothing failed.
    """
    paragraphs = []
    for group in split_by_failure([run for run, state in states.items() if state == FAILED]):
        run = group[0]
        end = (run.failure or {}).get('log')
        if end is None:
            end = run.log.read_text(errors='replace').splitlines()[-15:] if run.log.is_file() else []
        held_up = [each.label for each, its in states.items() if its == BLOCKED and _culprit(each, states) in group]
        paragraphs.append('\n'.join([
            f'{joint_label(group)} failed: {_exit_of(run)}. The end of {run.log}:', *(f'    {line}' for line in end),
            *([f'It was to teach, and so were not trained: {"; ".join(held_up)}'] if held_up else [])]))
    if paragraphs:
        paragraphs.append('The same command starts what failed again, each from its last checkpoint.')
    return '\n\n'.join(paragraphs)


def _culprit(run: Run, states: Dict[Run, str]) -> Run:
    """The failed run that holds up a blocked one: its teacher, or a teacher of that."""
    while states.get(run) == BLOCKED:
        run = run.teacher
    return run


def _exit_of(run: Run) -> str:
    """How a failed run ended."""
    status = (run.failure or {}).get('status')
    if status is None:
        return 'its job died'
    return f'exit status {status}' if status > 0 else f'killed, {signal.Signals(-status).name}'


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: '1:02:03'."""
    minutes, seconds = divmod(int(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{seconds:02d}'
