"""The content of a report, collected before it is rendered as Markdown or HTML."""
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional

from mmengine.config import Config

from mmat.utils.zoo import find_config

from ..recipe import name_of
from ..results import collect, summarise
from ..run import Run
from ..states import BLOCKED, DONE, FAILED, INTERRUPTED, RUNNING, STATES, WAITING
from .curves import Curve, read_curve
from .warnings import find_warnings

# No cell is marked as best with fewer seeds.
_MIN_SEEDS_FOR_BEST = 3


@dataclass(eq=False)
class Cell:
    """A cell of the table.

    Attributes:
        row (str): Its row.
        column (str): Its column.
        published (float, optional): The published number.
        metric (str): The metric of the runs that it shows.
        runs (list[Run]): The planned runs; empty if the report leaves the cell out.
        planned_epochs (int): Number of epochs in its config.
        label (str): Its name within its group.
        summary (dict, optional): Summary of the finished runs, see :func:`~mmat.reproduce.results.summarise`.
        curves (dict): Run -> its curves.
        is_best (bool): Whether each of its seeds is better than every seed of the other cells of its group, teachers
            excluded. All of them must be complete, with at least three seeds.
    """
    row: str
    column: str
    published: Optional[float]
    metric: str
    runs: List[Run]
    planned_epochs: int
    label: str = ''
    summary: Optional[dict] = None
    curves: Dict[Run, Curve] = field(default_factory=dict)
    is_best: bool = False

    @property
    def is_complete(self) -> bool:
        return bool(self.summary) and len(self.summary['values']) == len(self.runs)

    @property
    def is_comparable(self) -> bool:
        """Whether every run has as many epochs as its config."""
        return all(run.epochs == self.planned_epochs for run in self.runs)


@dataclass(eq=False)
class Group:
    """Cells that share a figure: a row of the table, or a column if all cells of each row show the same runs.

    Attributes:
        title (str): Its name; empty if it is the only group.
        cells (list[Cell]): In the recipe's order.
        suffix (str): Suffix of the file names of its figures.
    """
    title: str
    cells: List[Cell]
    suffix: str = ''

    @property
    def has_curves(self) -> bool:
        return any(not curve.is_empty for cell in self.cells for curve in cell.curves.values())


@dataclass
class Scaling:
    """Configs that were trained for more or fewer epochs than they say.

    Attributes:
        epochs (int): Number of epochs trained.
        planned (int): Number of epochs in the configs.
        options (str): All settings that differ from the configs, as ``--cfg-options``.
        names (list[str]): Names of the configs.
    """
    epochs: int
    planned: int
    options: str
    names: List[str] = field(default_factory=list)


@dataclass
class Content:
    """The content of a report.

    Attributes:
        name (str): Name of the recipe.
        title (str), note (str), measure (str): From the recipe.
        work_dir (Path): The table's folder.
        created (str): Date and time of the report, UTC.
        rows (list[str]), columns (list[str]): In the recipe's order.
        cells (dict): (row, column) -> cell.
        groups (list[Group]): Cells by figure.
        states (dict): Run -> one of :data:`~mmat.reproduce.states.STATES`; includes teachers without a cell.
        results (dict): Finished run -> content of its ``result.json``.
        result_rows (list[dict]): The rows of ``results.csv``.
        scalings (list[Scaling]): Empty if every run has as many epochs as its config.
        warnings (list[str]): Reasons why results are not comparable with each other.
    """
    name: str
    title: str
    note: str
    measure: str
    work_dir: Path
    created: str
    rows: List[str]
    columns: List[str]
    cells: Dict[tuple, Cell]
    groups: List[Group]
    states: Dict[Run, str]
    results: Dict[Run, dict]
    result_rows: List[dict]
    scalings: List[Scaling]
    warnings: List[str]

    @property
    def has_published(self) -> bool:
        return any(cell.published is not None for cell in self.cells.values())

    @property
    def counts(self) -> Dict[str, int]:
        """State -> number of runs, for the states that occur."""
        counted = Counter(self.states.values())
        return {state: counted[state] for state in STATES if counted[state]}

    @property
    def other_teachers(self) -> List[Run]:
        """Runs without a cell in the table, all of them teachers."""
        shown = {run for cell in self.cells.values() for run in cell.runs}
        return [run for run in self.states if run not in shown]


def collect_content(name: str, recipe: Config, runs: Dict[str, List[Run]], work_dir: Path) -> Content:
    """Collect the content of a report; arguments as in :func:`mmat.reproduce.report.write_report`."""
    all_runs = [run for group in runs.values() for run in group]
    # Read the results once, so that a run that finishes meanwhile appears only in the next report.
    results = {run: run.result for run in all_runs}
    results = {run: result for run, result in results.items() if result}
    done = {(run.name, run.seed) for run in results}
    result_rows = [row for row in collect(name, recipe, runs) if (row['config'], row['seed']) in done]
    summaries = summarise(result_rows)
    logs = {run: run.progress() for run in all_runs}
    planned, cells = {}, {}
    for cell in recipe.cells:
        config = name_of(cell.config)
        if config not in planned:
            planned[config] = Config.fromfile(find_config(cell.config)).train_cfg.max_epochs
        own = runs.get(config, [])
        cells[cell.row, cell.column] = Cell(
            cell.row, cell.column, cell.published, cell.metric, own, planned[config],
            summary=summaries.get((cell.row, cell.column)),
            curves={run: read_curve(logs[run], cell.metric, recipe.measure) for run in own})
    states: Dict[Run, str] = {}
    for run in all_runs:
        states[run] = _state_of(run, results, states)
    groups = _group(cells)
    for group in groups:
        _mark_best(group.cells, recipe.measure)
    return Content(
        name, recipe.title, recipe.note, recipe.measure, work_dir, time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
        list(dict.fromkeys(cell.row for cell in cells.values())),
        list(dict.fromkeys(cell.column for cell in cells.values())), cells, groups, states, results, result_rows,
        _find_scalings(all_runs, planned), find_warnings(results))


def _state_of(run: Run, results: Dict[Run, dict], states: Dict[Run, str]) -> str:
    if run in results:
        return DONE
    try:
        # `is_running` would create a missing lock file.
        if (run.work_dir / 'lock').is_file() and run.is_running:
            return RUNNING
    except OSError:  # a read-only copy, where nothing is training
        pass
    if run.failure:
        return FAILED
    if run.record.get('attempts'):
        return INTERRUPTED
    # Teachers precede their students in `states`.
    return BLOCKED if run.teacher and states.get(run.teacher) in (FAILED, BLOCKED) else WAITING


def _group(cells: Dict[tuple, Cell]) -> List[Group]:
    rows: Dict[str, List[Cell]] = {}
    for cell in cells.values():
        rows.setdefault(cell.row, []).append(cell)
    by_column = all(len({tuple(cell.runs) for cell in row}) == 1 for row in rows.values())
    groups: Dict[str, Group] = {}
    for cell in cells.values():
        title, cell.label = (cell.column, cell.row) if by_column else (cell.row, cell.column)
        groups.setdefault(title, Group(title, [])).cells.append(cell)
    if len(groups) > 1:
        for index, group in enumerate(groups.values()):
            group.suffix = f'-{index + 1}'
    elif by_column:
        next(iter(groups.values())).title = ''
    return list(groups.values())


def _mark_best(cells: List[Cell], measure: str) -> None:
    teachers = {run.teacher for cell in cells for run in cell.runs}
    students = [cell for cell in cells if not teachers.intersection(cell.runs)]
    if len(students) < 2 or not all(
            cell.is_complete and len(cell.runs) >= _MIN_SEEDS_FOR_BEST for cell in students):
        return
    sign = 1 if measure == 'error' else -1
    values = {cell: [sign * value for value in cell.summary['values'].values()] for cell in students}
    best = min(students, key=lambda cell: max(values[cell]))
    best.is_best = all(max(values[best]) < min(values[cell]) for cell in students if cell is not best)


def _find_scalings(runs: List[Run], planned: Dict[str, int]) -> List[Scaling]:
    found: Dict[tuple, Scaling] = {}
    for run in runs:
        if run.name not in planned:
            planned[run.name] = Config.fromfile(find_config(run.config)).train_cfg.max_epochs
        if run.epochs != planned[run.name]:
            key = run.epochs, planned[run.name], ' '.join(run.command_options(teacher=False))
            names = found.setdefault(key, Scaling(*key)).names
            if run.name not in names:
                names.append(run.name)
    return list(found.values())
