"""Shared code of the benchmarks: interleaved measurements, ratios with quartiles, and the table results/speed.csv.

Outline of a script:

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    start(args)
    times = interleave(dict(ours=..., bare=...), args.repeats)
    finish([row('R1', 'iteration / bare loop', ratio(times, 'ours', 'bare'), goal='<= 1.03', repeats=args.repeats,
                setting='fp32, 2 threads')], args)

``python benchmarks/common.py`` updates the table in benchmarks/README.md from results/speed.csv.
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
# The table of benchmarks/README.md is between these lines.
_BEGIN, _END = '<!-- table: results/speed.csv -->', '<!-- end of speed -->'
_KEY = ('figure', 'what', 'setting', 'hardware')


class StopTraining(BaseException):
    """Ends a timed training. Not an Exception, so that no error handler catches it."""


class Ratio(NamedTuple):
    """A median with its lower and upper quartile."""
    value: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Ratio:
    """Return median and quartiles, interpolated between the minimum (0 %) and the maximum (100 %)."""
    low, _, high = quantiles(values, n=4, method='inclusive') if len(values) > 1 else 3 * [values[0]]
    return Ratio(median(values), low, high)


def alternate(subjects: Dict[str, Callable[[], object]], repeats: int) -> Dict[str, list]:
    """Call the subjects in turns, each repeat starting with the next one, and return their results by name."""
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
    """Time several functions in turns, so that other load on the machine affects all of them.

    Args:
        subjects (dict): Functions by name.
        repeats (int): Blocks of each subject. Each repeat starts with the next subject.
        steps (int): Calls in a block. Defaults to 1.
        warmup (int): Calls of each subject before the first block, not timed. Defaults to 1.

    Returns:
        dict: Seconds per call for each repeat. CUDA devices are synchronised before and after a block.
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
    """Wait for the CUDA device if one is in use."""
    torch = sys.modules.get('torch')  # nothing is on a GPU unless torch is imported
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ratio(times: Dict[str, Sequence[float]],
          numerator: Union[str, Sequence[str]],
          denominator: Union[str, Sequence[str]]) -> Ratio:
    """Compute the ratio of two times in each repeat.

    Args:
        times (dict): Results of :func:`interleave`.
        numerator (str | Sequence[str]): A name, or names whose times are added: ``5 * ['one']`` is five times 'one'.
        denominator (str | Sequence[str]): A name or names.

    Returns:
        Ratio: Median and quartiles over the repeats.
    """
    above, below = (_total(times, names) for names in (numerator, denominator))
    return spread([a / b for a, b in zip(above, below)])


def _total(times: Dict[str, Sequence[float]], names: Union[str, Sequence[str]]) -> List[float]:
    names = [names] if isinstance(names, str) else names
    return [sum(repeat) for repeat in zip(*(times[name] for name in names))]


def in_process(*arguments: object, threads: Optional[int] = None, script: Optional[str] = None,
               **environment: str) -> object:
    """Run a script, by default the current one, in a new process.

    Args:
        arguments: Command line arguments.
        threads (int, optional): OpenMP threads. Defaults to None, the setting of this process.
        script (str, optional): Path of the script. Defaults to None, the current script.
        environment: Additional environment variables.

    Returns:
        object: The last line of the output, parsed as JSON.

    Raises:
        RuntimeError: The script failed. The message has the end of its output.
    """
    if threads is not None:
        environment['OMP_NUM_THREADS'] = str(threads)
    command = [sys.executable, script or sys.argv[0], *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f'{shlex.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}')
    return json.loads(done.stdout.splitlines()[-1])


def add_arguments(parser: argparse.ArgumentParser, repeats: int = 5) -> None:
    """Add the options of all benchmarks; ``repeats`` is the default of --repeats."""
    parser.add_argument('--repeats', type=int, default=repeats, help=f'number of measurements; default: {repeats}')
    parser.add_argument('--threads', type=int, help="OpenMP threads of each process; default: torch's")
    parser.add_argument('--record', action='store_true', help='write the rows to results/speed.csv')


def start(args: argparse.Namespace) -> None:
    """Check the arguments, and set the threads of this process and its children."""
    if args.repeats < 1:
        raise SystemExit(f'--repeats must be at least 1, got {args.repeats}.')
    if args.record:
        _commit()
    if args.threads:
        os.environ['OMP_NUM_THREADS'] = str(args.threads)
        import torch  # not needed by the main process of every benchmark
        torch.set_num_threads(args.threads)


@contextmanager
def quiet():
    """Context or decorator that suppresses log messages up to INFO."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def describe_threads() -> str:
    """Return the number of threads for the column `setting`. Call after :func:`start`."""
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
    """Make a row of the table.

    Args:
        figure (str): Such as 'R1'.
        what (str): Measured quantity, such as 'iteration / bare loop'.
        measured (Ratio | Sequence[float]): Median and quartiles.
        unit (str): Such as 'ms', 'images/s', 'MiB'. Defaults to 'ratio'.
        goal (str): Such as '<= 1.03'. Defaults to '', no goal.
        repeats (int): Number of measurements. Defaults to 1.
        setting (str): Precision, layout, batch, threads and other conditions. Defaults to ''.

    Returns:
        dict: The columns up to ``setting``.
    """
    value, low, high = (float(f'{number:.4g}') for number in measured)
    is_met(value, goal)  # check that the goal is valid
    return dict(figure=figure, what=what, value=value, low=low, high=high, unit=unit, goal=goal, repeats=repeats,
                setting=setting)


def is_met(value: float, goal: str) -> Optional[bool]:
    """Return True if a value meets a goal such as '<= 1.03' or '>= 50', and None without a goal.

    Raises:
        ValueError: The goal has another form.
    """
    if not goal:
        return None
    sign, _, bound = goal.partition(' ')
    if sign not in ('<=', '>='):
        raise ValueError(f"A goal must have the form '<= 1.03' or '>= 50', got {goal!r}.")
    return value <= float(bound) if sign == '<=' else value >= float(bound)


def table(rows: Sequence[dict]) -> str:
    """Format rows as a Markdown table."""
    lines = ['| figure | what | setting | median | quartiles | unit | goal |', '|---|---|---|---|---|---|---|']
    for each in rows:
        met = is_met(each['value'], each['goal'])
        goal = each['goal'] and f'{each["goal"]}: {"met" if met else "not met"}'
        lines.append(f'| {each["figure"]} | {each["what"]} | {each["setting"]} | {each["value"]:g} | '
                     f'{each["low"]:g} to {each["high"]:g} | {each["unit"]} | {goal} |')
    return '\n'.join(lines)


def finish(rows: Sequence[dict], args: argparse.Namespace) -> None:
    """Print the rows, and record them under --record."""
    print(table(rows), flush=True)
    if args.record:
        record(rows)


def record(rows: Sequence[dict]) -> None:
    """Write rows to results/speed.csv. They replace rows of equal figure, what, setting and hardware.

    Args:
        rows (Sequence[dict]): From :func:`row`. Hardware, software, date, commit and command are added.

    Raises:
        SystemExit: The code differs from the commit, so that the numbers could not be reproduced.
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
    """Return the rows of results/speed.csv as text; an empty list if the file does not exist.

    Raises:
        FileError: The columns are not :data:`COLUMNS`.
    """
    if not SPEED.is_file():
        return []
    with open(SPEED, newline='') as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            from mmat.errors import FileError
            raise FileError(f'File {SPEED} must have the columns {list(COLUMNS)}, got {reader.fieldnames}.')
        return list(reader)


def readme() -> str:
    """Return the text of benchmarks/README.md with an updated table of the goals in results/speed.csv."""
    text = (ROOT / 'benchmarks' / 'README.md').read_text()
    begin, _, rest = text.partition(_BEGIN)
    rows = sorted((each for each in read_speed() if each['goal']), key=lambda each: each['figure'])
    return f'{begin}{_BEGIN}\n{goal_table(rows)}\n{_END}{rest.partition(_END)[2]}'


def goal_table(rows: Sequence[dict]) -> str:
    """Format recorded rows with goals as a Markdown table."""
    lines = ['| figure | quantity | setting | median (quartiles) | goal | met | hardware | commit |',
             '|---|---|---|---|---|---|---|---|']
    for each in rows:
        value, low, high = (float(each[key]) for key in ('value', 'low', 'high'))
        unit = '' if each['unit'] == 'ratio' else f' {each["unit"]}'
        lines.append(f'| {each["figure"]} | {each["what"]} | {each["setting"]} | '
                     f'{value:g} ({low:g} to {high:g}){unit} | {each["goal"]} | '
                     f'{"yes" if is_met(value, each["goal"]) else "**no**"} | {each["hardware"]} | {each["commit"]} |')
    return '\n'.join(lines)


def _commit() -> str:
    """Return the commit of the code, including the benchmarks.

    Raises:
        SystemExit: There is no commit, or the code differs from it.
    """
    from mmat.reproduce.provenance import describe_code
    commit = describe_code()['commit']
    if commit is None:
        raise SystemExit('--record needs a git checkout, because it records the commit.')
    changed = subprocess.run(['git', '-C', str(ROOT), 'status', '--porcelain', '--', 'benchmarks/*.py'], check=True,
                             capture_output=True, text=True).stdout
    if commit.endswith('+') or changed:
        raise SystemExit('--record needs committed code, but mmat, configs, tools, recipes or benchmarks differ from '
                         f'{commit.rstrip("+")}. See git status.')
    return commit


if __name__ == '__main__':
    content = readme()
    (ROOT / 'benchmarks' / 'README.md').write_text(content)
