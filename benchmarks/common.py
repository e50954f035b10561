"""What the benchmarks share: measuring in turns, ratios with their spread, and the table results/speed.csv.

A script is

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    start(args)
    times = interleave(dict(ours=..., bare=...), args.repeats)
    finish([row('R1', 'iteration / bare loop', ratio(times, 'ours', 'bare'), goal='<= 1.03', repeats=args.repeats,
                setting='fp32, 2 threads')], args)

``python benchmarks/common.py`` puts what was recorded into benchmarks/README.md.
"""
import argparse
import csv
import io
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Union

ROOT = Path(__file__).resolve().parents[1]
SPEED = ROOT / 'results' / 'speed.csv'
COLUMNS = ('figure', 'what', 'value', 'low', 'high', 'unit', 'goal', 'repeats', 'setting',
           'hardware', 'software', 'date', 'commit', 'command')
# Lines of benchmarks/README.md between which the table is.
_BEGIN, _END = '<!-- table: results/speed.csv -->', '<!-- end of speed -->'
_KEY = ('figure', 'what', 'setting', 'hardware')


class Enough(BaseException):
    """Ends a training that is timed; nothing that reports errors takes it for one."""


class Ratio(NamedTuple):
    """A median, and the quartiles below and above it."""
    value: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Ratio:
    """Median and quartiles, interpolated: the least value is at 0 %, the most at 100 %."""
    low, _, high = quantiles(values, n=4, method='inclusive') if len(values) > 1 else 3 * [values[0]]
    return Ratio(median(values), low, high)


def alternate(subjects: Dict[str, Callable[[], object]], repeats: int) -> Dict[str, list]:
    """What each subject returns when they are called in turns, the first of a turn changing from repeat to repeat."""
    names, results = list(subjects), {name: [] for name in subjects}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(subjects[name]())
    return results


def interleave(subjects: Dict[str, Callable[[], object]],
               repeats: int,
               steps: int = 1,
               warmup: int = 1) -> Dict[str, List[float]]:
    """Time several things in turns, so that what else the machine does falls on all of them.

    Args:
        subjects (dict): What to call, by name.
        repeats (int): Blocks of each subject. The order of the subjects moves on by one from repeat to repeat.
        steps (int): Calls in a block. Defaults to 1.
        warmup (int): Calls of each subject before the first block, not timed. Defaults to 1.

    Returns:
        dict: Seconds for a call, one for each repeat. What a CUDA device still has to do is waited for, before and
        after a block.
    """
    for call in subjects.values():
        for _ in range(warmup):
            call()
    return alternate({name: partial(_time, call, steps) for name, call in subjects.items()}, repeats)


def _time(call: Callable[[], object], steps: int) -> float:
    synchronize()
    begin = time.perf_counter()
    for _ in range(steps):
        call()
    synchronize()
    return (time.perf_counter() - begin) / steps


def synchronize() -> None:
    """Wait for a CUDA device, where there is one in use."""
    torch = sys.modules.get('torch')  # without it nothing is on a GPU
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ratio(times: Dict[str, Sequence[float]],
          numerator: Union[str, Sequence[str]],
          denominator: Union[str, Sequence[str]]) -> Ratio:
    """How many times the one takes of the other, from repeat to repeat.

    Args:
        times (dict): As :func:`interleave` gives them.
        numerator (str | Sequence[str]): A name, or names whose times are added: ``5 * ['one']`` is five of one.
        denominator (str | Sequence[str]): Likewise.

    Returns:
        Ratio: Median and quartiles of the repeats' ratios.
    """
    above, below = (_total(times, names) for names in (numerator, denominator))
    return spread([a / b for a, b in zip(above, below)])


def _total(times: Dict[str, Sequence[float]], names: Union[str, Sequence[str]]) -> List[float]:
    names = [names] if isinstance(names, str) else names
    return [sum(repeat) for repeat in zip(*(times[name] for name in names))]


def in_process(*arguments: object, threads: Optional[int] = None, script: Optional[str] = None,
               **environment: str) -> object:
    """Call a script, by default the one that runs, in a process of its own.

    Args:
        arguments: Of its command line.
        threads (int, optional): Of its arithmetic. Defaults to None: as here.
        script (str, optional): Its path. Defaults to None.
        environment: Variables that it finds beside those of this process.

    Returns:
        object: The last line that it prints, read as JSON.

    Raises:
        RuntimeError: It failed; the message has the end of what it said.
    """
    if threads is not None:
        environment['OMP_NUM_THREADS'] = str(threads)
    command = [sys.executable, script or sys.argv[0], *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f'{shlex.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}')
    return json.loads(done.stdout.splitlines()[-1])


def add_arguments(parser: argparse.ArgumentParser, repeats: int = 5) -> None:
    """What every benchmark's command line has; ``repeats`` is the default."""
    parser.add_argument('--repeats', type=int, default=repeats, help=f'measurements of each; default: {repeats}')
    parser.add_argument('--threads', type=int, help="of a process's arithmetic; default: as torch takes them")
    parser.add_argument('--record', action='store_true', help='put the rows into results/speed.csv')


def start(args: argparse.Namespace) -> None:
    """Before measuring: the threads, here and in processes begun from here; and whether recording will be refused."""
    if args.repeats < 1:
        raise SystemExit(f'--repeats must be at least 1, got {args.repeats}')
    if args.record:
        _commit()
    if args.threads:
        os.environ['OMP_NUM_THREADS'] = str(args.threads)
        import torch  # here: not every benchmark's main process needs it
        torch.set_num_threads(args.threads)


@contextmanager
def quiet():
    """No lines of information in the log; also a decorator."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def describe_threads() -> str:
    """Of this process's arithmetic, and of that of processes begun from here; after :func:`start`."""
    import torch
    count = torch.get_num_threads()
    return f'{count} thread{"s" if count > 1 else ""}'


def row(figure: str,
        what: str,
        measured: Union[Ratio, Sequence[float]],
        unit: str = 'ratio',
        goal: str = '',
        repeats: int = 1,
        setting: str = '') -> dict:
    """One line of the table.

    Args:
        figure (str): Such as 'R1'.
        what (str): What was measured, such as 'iteration / bare loop'.
        measured (Ratio | Sequence[float]): The number and its quartiles.
        unit (str): Such as 'ms', 'images/s', 'MiB'. Defaults to 'ratio'.
        goal (str): Such as '<= 1.03', '' where there is none.
        repeats (int): Of how many measurements ``measured`` is the median.
        setting (str): Whatever else the number depends on: precision, layout, batch, threads.

    Returns:
        dict: The columns up to ``setting``.
    """
    value, low, high = (float(f'{number:.4g}') for number in measured)
    is_met(value, goal)  # says now if the goal cannot be read
    return dict(figure=figure, what=what, value=value, low=low, high=high, unit=unit, goal=goal, repeats=repeats,
                setting=setting)


def is_met(value: float, goal: str) -> Optional[bool]:
    """Whether a value keeps to a goal such as '<= 1.03' or '>= 50'; None where there is none.

    Raises:
        ValueError: The goal is neither.
    """
    if not goal:
        return None
    sign, _, bound = goal.partition(' ')
    if sign not in ('<=', '>='):
        raise ValueError(f"a goal is such as '<= 1.03' or '>= 50', got {goal!r}")
    return value <= float(bound) if sign == '<=' else value >= float(bound)


def table(rows: Sequence[dict]) -> str:
    """The rows in Markdown."""
    lines = ['| figure | what | setting | median | quartiles | unit | goal |', '|---|---|---|---|---|---|---|']
    for each in rows:
        met = is_met(each['value'], each['goal'])
        goal = each['goal'] and f'{each["goal"]}: {"met" if met else "not met"}'
        lines.append(f'| {each["figure"]} | {each["what"]} | {each["setting"]} | {each["value"]:g} | '
                     f'{each["low"]:g} to {each["high"]:g} | {each["unit"]} | {goal} |')
    return '\n'.join(lines)


def finish(rows: Sequence[dict], args: argparse.Namespace) -> None:
    """Print the rows, and record them if that was asked for."""
    print(table(rows), flush=True)
    if args.record:
        record(rows)


def record(rows: Sequence[dict]) -> None:
    """Put rows into results/speed.csv, in place of those of the same figure, what, setting and hardware.

    Args:
        rows (Sequence[dict]): As :func:`row` makes them; hardware, software, date, commit and command are added.

    Raises:
        SystemExit: Code differs from the commit: another could not measure the same.
    """
    from mmat.reproduce.provenance import describe_code, describe_hardware
    from mmat.utils.files import write_atomic
    script = 'python', f'benchmarks/{Path(sys.argv[0]).name}'
    where = dict(commit=_commit(), hardware=describe_hardware(),
                 software=', '.join(f'{name} {version}' for name, version in describe_code()['versions'].items()),
                 date=time.strftime('%Y-%m-%d', time.gmtime()), command=shlex.join([*script, *sys.argv[1:]]))
    new = {tuple(each[key] for key in _KEY): each for each in ({**each, **where} for each in rows)}
    merged = {tuple(each[key] for key in _KEY): each for each in read_speed()}
    merged.update(new)  # a replaced row keeps its place
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(merged.values())
    write_atomic(SPEED, text.getvalue().encode())


def read_speed() -> List[dict]:
    """The rows of results/speed.csv, as text; none where there is no such file.

    Raises:
        ValueError: Its columns are others than :data:`COLUMNS`.
    """
    if not SPEED.is_file():
        return []
    with open(SPEED, newline='') as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f'{SPEED} has the columns {reader.fieldnames}, expected {list(COLUMNS)}')
        return list(reader)


def readme() -> str:
    """benchmarks/README.md with the table of what is in results/speed.csv."""
    text = (ROOT / 'benchmarks' / 'README.md').read_text()
    begin, _, rest = text.partition(_BEGIN)
    rows = sorted(read_speed(), key=lambda each: each['figure'])
    shown = table([{**each, **{key: float(each[key]) for key in ('value', 'low', 'high')}} for each in rows])
    return f'{begin}{_BEGIN}\n{shown}\n{_END}{rest.partition(_END)[2]}'


def _commit() -> str:
    """The commit that the code is of, benchmarks included.

    Raises:
        SystemExit: There is none, or code differs from it.
    """
    from mmat.reproduce.provenance import describe_code
    commit = describe_code()['commit']
    if commit is None:
        raise SystemExit('--record needs a git checkout: a number is recorded with the commit that it is of')
    changed = subprocess.run(['git', '-C', str(ROOT), 'status', '--porcelain', '--', 'benchmarks/*.py'], check=True,
                             capture_output=True, text=True).stdout
    if commit.endswith('+') or changed:
        raise SystemExit('--record needs the code as committed, and mmat, configs, tools, recipes or benchmarks differ '
                         f'from {commit.rstrip("+")}: git status tells where')
    return commit


if __name__ == '__main__':
    content = readme()
    (ROOT / 'benchmarks' / 'README.md').write_text(content)
