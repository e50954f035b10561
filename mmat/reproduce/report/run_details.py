"""The provenance of a run, field by field."""
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional

from mmat.utils.zoo import zoo_root

from ..run import Run, num_joint_runs
from .content import Cell, Content


def run_details(content: Content, run: Run, cell: Optional[Cell] = None) -> Dict[str, str]:
    """Return the provenance of a run as text.

    Args:
        content (Content): Content of the report.
        run (Run): One of its runs.
        cell (Cell, optional): The cell that shows the run. Defaults to None, for a teacher without a cell.

    Returns:
        dict: Field -> text. For an unfinished run, unknown fields are missing.
    """
    result = content.results.get(run)
    details = dict(config=run.name, seed=str(run.seed))
    record = run.record
    if record.get('batch_seed') is not None:
        details['batches'] = f'shared, seed {record["batch_seed"]}'
    if result is None:
        details['state'] = content.states[run]
    elif cell is not None:
        details[content.measure] = f'{cell.summary["values"][run.seed]:.2f} %'
    if result is not None:
        exists = (run.work_dir / result['checkpoint']).is_file()
        details['checkpoint'] = f'{run.work_dir.parent.name}/{run.work_dir.name}/{result["checkpoint"]}' + (
            '' if exists else ' (deleted)')
        details['SHA-256'] = result['checkpoint_sha256']
    if run.teacher:
        details['teacher'] = run.teacher.label
        if result is not None:
            details['teacher SHA-256'] = result['teacher_sha256']
    details['epochs'] = str(run.epochs)
    if run.options:
        details['settings'] = ' '.join(run.command_options(teacher=False))
    if run.processes > 1:
        details['processes'] = str(run.processes)
    if result is not None:
        details.update({
            'precision': result['precision'], 'hardware': result['hardware'], 'commit': result['commit'] or 'none',
            'versions': ', '.join(f'{name} {version}' for name, version in result['versions'].items()),
            'wall time': format_duration(result['wall_time']) + _share(record), 'attempts': str(result['attempts']),
            'date': result['date']})
    elif record.get('attempts'):
        details['attempts'] = str(len(record['attempts']))
    details['command'] = train_command(run, content.work_dir)
    return details


def _share(record: dict) -> str:
    """Return a note on the wall time if one process trained several seeds."""
    counts = sorted({num_joint_runs(attempt) for attempt in record.get('attempts', ())})
    if not counts or counts[-1] == 1:
        return ''
    return f' (share of a process that trained {" or ".join(map(str, counts))} seeds)'


def train_command(run: Run, work_dir: Path) -> str:
    """Return the command that trains a run again, with paths relative to the root of a checkout."""
    relative = os.path.relpath(work_dir)
    folder = f'work_dirs/{Path(work_dir).resolve().name}' if relative.startswith('..') else relative
    words = []
    # Use the recorded batch seed, whatever the options of this report.
    record = run.record
    recorded = replace(run, batch_seed=record.get('batch_seed')) if record else run
    for word in recorded.command():
        word = 'python' if word == sys.executable else word
        for prefix, shown in ((work_dir, f'{folder}/'), (zoo_root(), '')):
            word = word.replace(f'{prefix}/', shown)
        words.append(word)
    return shlex.join(words)


def format_duration(seconds: int) -> str:
    """Format seconds, such as '3 h 12 min' or '2 min 6 s'."""
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'
