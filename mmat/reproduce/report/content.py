"""What a report tells, before it is Markdown or a page."""
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
from .curves import Curve, read_curve
from .doubts import find_doubts

# What a run can be, as the report tells it.
DONE, RUNNING, FAILED, INTERRUPTED, BLOCKED, WAITING = STATES = (
    'done', 'running', 'failed', 'interrupted', 'waiting for a teacher that failed', 'not begun')
# With fewer seeds than this nothing is put above anything else.
_SEEDS_TO_ORDER = 3


@dataclass(eq=False)
class Cell:
    """A number of the table.

    Attributes:
        row (str): Where it is,
        column (str): and in which column.
        published (float, optional): The number in print.
        metric (str): What of a run's metrics it is.
        runs (list[Run]): Those that are planned; none where this report leaves the cell out.
        planned_epochs (int): The epochs of its config.
        label (str): How it is called beside the others of its group.
        summary (dict, optional): Of what is done, see :func:`~mmat.reproduce.results.summarise`.
        curves (dict): Run -> its curve.
        is_best (bool): Whether each of its seeds is better than every seed of the others of its group, teachers left
            out, all of which are done with at least three seeds.
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
        """Whether it was trained for as long as its config says."""
        return all(run.epochs == self.planned_epochs for run in self.runs)


@dataclass(eq=False)
class Group:
    """Cells that are drawn together: a row; or a column, where all cells of a row are of the same trainings.

    Attributes:
        title (str): Its name; empty where it is all there is.
        cells (list[Cell]): In the recipe's order.
        suffix (str): What its pictures' names end in.
    """
    title: str
    cells: List[Cell]
    suffix: str = ''

    @property
    def has_curves(self) -> bool:
        return any(not curve.is_empty for cell in self.cells for curve in cell.curves.values())


@dataclass
class Scaling:
    """Trainings that are shorter, or longer, than their configs say.

    Attributes:
        epochs (int): How many they have,
        planned (int): and how many their configs.
        options (str): All that differs from the configs, as ``--cfg-options``.
        names (list[str]): Of the configs.
    """
    epochs: int
    planned: int
    options: str
    names: List[str] = field(default_factory=list)


@dataclass
class Content:
    """All that is told.

    Attributes:
        name (str): Of the recipe, with its
        title (str), note (str) and
        measure (str).
        work_dir (Path): The table's folder.
        made (str): When, UTC.
        rows (list[str]), columns (list[str]): In the recipe's order.
        cells (dict): (row, column) -> cell.
        groups (list[Group]): What is drawn together.
        states (dict): Run -> one of :data:`STATES`, teachers without a cell included.
        results (dict): Run -> what ``result.json`` says, of those that are done.
        measured (list[dict]): The rows of ``results.csv``.
        scalings (list[Scaling]): None where all is trained as its config says.
        doubts (list[str]): Reasons not to compare the numbers with each other.
    """
    name: str
    title: str
    note: str
    measure: str
    work_dir: Path
    made: str
    rows: List[str]
    columns: List[str]
    cells: Dict[tuple, Cell]
    groups: List[Group]
    states: Dict[Run, str]
    results: Dict[Run, dict]
    measured: List[dict]
    scalings: List[Scaling]
    doubts: List[str]

    @property
    def has_published(self) -> bool:
        return any(cell.published is not None for cell in self.cells.values())

    @property
    def counts(self) -> Dict[str, int]:
        """State -> how many runs are in it, those without any left out."""
        counted = Counter(self.states.values())
        return {state: counted[state] for state in STATES if counted[state]}

    @property
    def others(self) -> List[Run]:
        """Trainings behind the table that are no cell of it: teachers."""
        shown = {run for cell in self.cells.values() for run in cell.runs}
        return [run for run in self.states if run not in shown]


def gather(name: str, recipe: Config, runs: Dict[str, List[Run]], work_dir: Path) -> Content:
    """Read what there is to tell; arguments as of :func:`mmat.reproduce.report.write_report`."""
    everyone = [run for group in runs.values() for run in group]
    # First: what is done from now on is told by the next report.
    results = {run: run.result for run in everyone}
    results = {run: result for run, result in results.items() if result}
    done = {(run.name, run.seed) for run in results}
    measured = [row for row in collect(name, recipe, runs) if (row['config'], row['seed']) in done]
    summaries = summarise(measured)
    logs = {run: run.progress() for run in everyone}
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
    for run in everyone:
        states[run] = _state_of(run, results, states)
    groups = _group(cells)
    for group in groups:
        _find_best(group.cells, recipe.measure)
    return Content(
        name, recipe.title, recipe.note, recipe.measure, work_dir, time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
        list(dict.fromkeys(cell.row for cell in cells.values())),
        list(dict.fromkeys(cell.column for cell in cells.values())), cells, groups, states, results, measured,
        _find_scalings(everyone, planned), find_doubts(results))


def _state_of(run: Run, results: Dict[Run, dict], states: Dict[Run, str]) -> str:
    if run in results:
        return DONE
    try:
        # To ask makes a lock where there is none.
        if (run.work_dir / 'lock').is_file() and run.is_running:
            return RUNNING
    except OSError:  # a copy that cannot be written to: nobody trains there
        pass
    if run.failure:
        return FAILED
    if run.record.get('attempts'):
        return INTERRUPTED
    # Teachers come first.
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


def _find_best(cells: List[Cell], measure: str) -> None:
    teachers = {run.teacher for cell in cells for run in cell.runs}
    students = [cell for cell in cells if not teachers.intersection(cell.runs)]
    if len(students) < 2 or not all(
            cell.is_complete and len(cell.runs) >= _SEEDS_TO_ORDER for cell in students):
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
