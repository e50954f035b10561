"""Progress of a table's runs: a live table in a terminal, lines elsewhere."""
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
from .run import Run
from .run_log import METRIC, RunLog
from .states import BLOCKED, DONE, FAILED, RUNNING, WAITING

_STYLES = {DONE: 'green', FAILED: 'bold red', BLOCKED: 'red', RUNNING: 'cyan', WAITING: 'dim'}


@contextmanager
def show_progress(title: str, jobs: int, measure: str = 'error',
                  console: Optional[Console] = None) -> Iterator[Callable[[Dict[Run, str]], None]]:
    """Show the progress of runs: a live table in a terminal, elsewhere a line for each event.

    Args:
        title (str): Title of the table of results.
        jobs (int): Number of parallel runs, for the estimate of the time left.
        measure (str): The value to show for each run, 'error' or 'accuracy'. Defaults to 'error'.
        console (Console, optional): Where to print. Defaults to None, the standard output.

    Yields:
        Callable: To be called by :func:`~mmat.reproduce.pool.execute` with the state of every run.
    """
    console = console or Console()
    if not console.is_interactive:
        yield PlainProgress(title, jobs, measure, partial(print, file=console.file, flush=True))
        return
    table = LiveProgress(title, jobs, measure)
    # Redraw only on calls, without a thread.
    with Live(table, console=console, auto_refresh=False) as live:
        table.draw = live.refresh
        yield table


class Progress:
    """State of the runs, read from disk, and estimates of the time left.

    Args:
        title (str): Title of the table of results. Defaults to ''.
        jobs (int): Number of parallel runs. Defaults to 1.
        measure (str): 'error' or 'accuracy'. Defaults to 'error'.
    """

    def __init__(self, title: str = '', jobs: int = 1, measure: str = 'error'):
        self.title, self.jobs, self.measure = title, jobs, measure
        self.start = time.monotonic()
        self.states: Dict[Run, str] = {}
        self.logs: Dict[Run, RunLog] = {}
        self.results: Dict[Run, dict] = {}

    def update(self, states: Dict[Run, str]) -> None:
        """Read new log lines of running runs and the results of finished ones."""
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
        """Return the last error or accuracy of a run, in percent."""
        accuracy = self.results[run]['metrics'].get(METRIC) if run in self.results else (
            self.logs[run].accuracy if run in self.logs else None)
        return 100 - accuracy if accuracy is not None and self.measure == 'error' else accuracy

    def seconds_per_epoch(self) -> Dict[str, float]:
        """Return config name -> seconds per epoch, averaged over its runs; only for configs with measured runs.

        For runs trained in one process, this is the share of each run.
        """
        measured: Dict[str, List[float]] = {}
        for group in split_into_jobs(self.in_state(RUNNING)):
            for run in group:
                if self.logs[run].pace is not None:
                    measured.setdefault(run.name, []).append(self.logs[run].pace / len(group))
        for run, result in self.results.items():
            measured.setdefault(run.name, []).append(result['wall_time'] / run.epochs)
        return {name: sum(each) / len(each) for name, each in measured.items()}

    def time_left(self, run: Run) -> Optional[float]:
        """Return the seconds left for a running run, None if nothing is known about its config."""
        return next(self._group_time_left(group, self.seconds_per_epoch())
                    for group in split_into_jobs(self.in_state(RUNNING)) if run in group)

    def _group_time_left(self, group: List[Run], seconds_per_epoch: Dict[str, float]) -> Optional[float]:
        """Return the seconds left for the runs of one process, the maximum over them."""
        share = seconds_per_epoch.get(group[0].name)
        usual = None if share is None else share * len(group)
        left = [self.logs[run].left(self.logs[run].pace or usual) for run in group]
        return max((each for each in left if each is not None), default=None)

    def total_time_left(self) -> Optional[float]:
        """Return the seconds left for all runs, None before the first measurement.

        The estimate runs ``jobs`` processes at a time, students after their teachers. Configs without measurements get
        the mean duration of the others.
        """
        pace = self.seconds_per_epoch()
        if not pace:
            return None
        usual = sum(pace[name] * epochs for name, epochs in {
            run.name: run.epochs for run in self.states if run.name in pace}.items()) / len(pace)
        pace = {run.name: pace.get(run.name, usual / run.epochs) for run in self.states}
        running = split_into_jobs(self.in_state(RUNNING))
        ends = {run: self._group_time_left(group, pace) for group in running for run in group}
        free = [*(ends[group[0]] for group in running), *[0.] * (self.jobs - len(running))]
        heapq.heapify(free)
        for group in split_into_jobs(self.in_state(WAITING)):
            begin = max(heapq.heappop(free), ends.get(group[0].teacher, 0.))
            end = begin + sum(run.epochs * pace[run.name] for run in group)
            ends.update(dict.fromkeys(group, end))
            heapq.heappush(free, end)
        return max(ends.values(), default=0.)


class PlainProgress(Progress):
    """Print a line for each event, for log files and simple terminals.

    Args:
        title, jobs, measure: See :class:`Progress`.
        write (Callable, optional): Called with each line. Defaults to None, which prints it.
        pause (float): Minimum seconds between two lines about validations of a run. Defaults to 30.
    """

    def __init__(self, title: str = '', jobs: int = 1, measure: str = 'error',
                 write: Optional[Callable[[str], None]] = None, pause: float = 30.):
        super().__init__(title, jobs, measure)
        self.write, self.pause = write or partial(print, flush=True), pause
        # Run -> time of its last line, and the epoch that the line reported.
        self.reported: Dict[Run, tuple] = {}

    def __call__(self, states: Dict[Run, str]) -> None:
        before = self.states
        self.update(states)
        if not before:
            self.write_line(f'{self.title}: {len(states)} runs, {self.count(DONE)} already done')
        for run, state in states.items():
            if state != before.get(run, DONE if not before else None) and state != WAITING:
                self.reported[run] = (time.monotonic(), 0)
                self.write_line(f'{state:8s} {run.label}{self.detail(run)}')
            elif state == RUNNING:
                moment, epoch = self.reported.get(run, (0., 0))
                if self.logs[run].validated > epoch and time.monotonic() - moment >= self.pause:
                    self.reported[run] = (time.monotonic(), self.logs[run].validated)
                    self.write_line(f'{state:8s} {run.label}{self.detail(run)}')

    def detail(self, run: Run) -> str:
        """Return the end of a line about a run."""
        state, value = self.states[run], self.value(run)
        number = '' if value is None else f'{self.measure} {value:.2f} %'
        if state == FAILED:
            return f': {exit_text(run.failure)}, see {run.log}'
        if state == BLOCKED:
            return f': needs {_failed_teacher(run, self.states).label}, which failed'
        if state == RUNNING and self.logs[run].validated:
            left = self.time_left(run)
            return f': epoch {self.logs[run].validated}/{run.epochs}, {number}' + (
                '' if left is None else f', {format_clock(left)} left')
        return f': {number}' if state == DONE and number else ''

    def write_line(self, text: str) -> None:
        left = self.total_time_left()
        elapsed = format_clock(time.monotonic() - self.start)
        self.write(f'[{elapsed}] {text}   [{self.count(DONE)}/{len(self.states)}' + (
            f', about {format_clock(left)} left]' if left else ']'))


class LiveProgress(Progress):
    """A table with a line for each run, redrawn as they progress, within the height of the terminal."""

    draw: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, title: str, jobs: int, measure: str = 'error'):
        super().__init__(title, jobs, measure)
        self.drawn = 0.
        self.ended: List[Run] = []

    def __call__(self, states: Dict[Run, str]) -> None:
        changed = states != self.states
        self.ended += [run for run, state in states.items() if state == DONE and self.states.get(run) != DONE]
        self.update(states)
        # Drawing takes 30 ms of the CPU that the runs use.
        if changed or time.monotonic() - self.drawn >= 2:
            self.drawn = time.monotonic()
            self.draw()

    def __rich_console__(self, console: Console, options):
        if not self.states:
            return
        yield Text(self.title, style='bold', no_wrap=True, overflow='ellipsis')
        counts = [f'{self.count(state)} {state}' for state in (FAILED, BLOCKED, RUNNING) if self.count(state)]
        left = self.total_time_left()
        times = [f'{format_clock(time.monotonic() - self.start)} elapsed',
                 *([f'about {format_clock(left)} left'] if left else [])]
        yield Text(f'{", ".join([f"{self.count(DONE)}/{len(self.states)} done", *counts])}; {", ".join(times)}',
                   no_wrap=True, overflow='ellipsis')
        # Reserve five lines: title, counts, table header, hidden runs, cursor.
        shown = self.select_runs(max(1, console.height - 5))
        yield self.table(shown, console.width)
        rest = [f'{number} {state}' for state in _STYLES
                if (number := sum(self.states[run] == state for run in self.states.keys() - set(shown)))]
        if rest:
            yield Text(f'not shown: {", ".join(rest)}', style='dim', no_wrap=True, overflow='ellipsis')

    def select_runs(self, lines: int) -> List[Run]:
        """Return all runs if they fit; otherwise the running and failed, the last finished and the next waiting."""
        runs = list(self.states)
        if len(runs) <= lines + 1:
            return runs
        by_state = {state: self.in_state(state) for state in _STYLES}
        running = by_state[RUNNING][:lines]
        failed = by_state[FAILED][:lines - len(running)]
        spare = lines - len(running) - len(failed)
        ended = self.ended[-((spare + 1) // 2):] if spare else []
        waiting = by_state[WAITING][:spare - len(ended)]
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
            value, left = self.value(run), self.time_left(run) if state == RUNNING else None
            epoch = self.logs[run].epoch if run in self.logs else 0
            bars = [ProgressBar(run.epochs, epoch, width=bar) if state == RUNNING else ''] if bar else []
            table.add_row(Text(state, style=_STYLES[state]), Text(run.name), str(run.seed), Text(detail), *bars,
                          '' if value is None else f'{value:.2f}', '' if left is None else format_clock(left),
                          style=_STYLES[WAITING] if state in (WAITING, BLOCKED) else None)
        return table

    def detail(self, run: Run) -> str:
        """Return the text of the epoch column."""
        state = self.states[run]
        if state == WAITING:
            return 'for teacher' if self.states.get(run.teacher, DONE) != DONE else ''
        if state == BLOCKED:
            return 'teacher failed'
        if state == FAILED:
            return exit_text(run.failure)
        done = run.epochs if state == DONE else int(self.logs[run].epoch)
        resumed = self.logs[run].resumed if state == RUNNING else None
        return f'{done:>{len(str(run.epochs))}}/{run.epochs}' + (f' from {resumed}' if resumed else '')


def format_failures(states: Dict[Run, str]) -> str:
    """Describe the failed runs: exit status, last log lines, the students that they block, and how to restart.

    Args:
        states (dict): Run -> state, from :func:`~mmat.reproduce.pool.execute`.

    Returns:
        str: A paragraph for each failure; '' if nothing failed.
    """
    paragraphs = []
    for group in split_by_failure([run for run, state in states.items() if state == FAILED]):
        run = group[0]
        end = (run.failure or {}).get('log')
        if end is None:
            end = run.log.read_text(errors='replace').splitlines()[-15:] if run.log.is_file() else []
        blocked = [each.label for each, state in states.items()
                   if state == BLOCKED and _failed_teacher(each, states) in group]
        paragraphs.append('\n'.join([
            f'{joint_label(group)} failed: {exit_text(run.failure)}. The last lines of {run.log}:',
            *(f'    {line}' for line in end),
            *([f'Not trained, because they need it as a teacher: {"; ".join(blocked)}'] if blocked else [])]))
    if paragraphs:
        paragraphs.append('Run the same command again to restart the failed runs from their last checkpoints.')
    return '\n\n'.join(paragraphs)


def _failed_teacher(run: Run, states: Dict[Run, str]) -> Run:
    """Return the failed run that blocks a run: its teacher, or its teacher's teacher."""
    while states.get(run) == BLOCKED:
        run = run.teacher
    return run


def exit_text(failure: Optional[dict]) -> str:
    """Describe how a run ended.

    Args:
        failure (dict, optional): Content of its ``failure.json``, None without that file.
    """
    if failure is None:
        return 'process died'
    status = failure['status']
    return f'exit status {status}' if status > 0 else f'killed by {signal.Signals(-status).name}'


def format_clock(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds: '1:02:03'."""
    minutes, seconds = divmod(int(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{seconds:02d}'
