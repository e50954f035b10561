"""Where a number is from, field by field."""
import os
import shlex
import sys
from pathlib import Path
from typing import Dict, Optional

from mmat.utils.zoo import zoo_root

from ..run import Run
from .content import Cell, Content


def facts_of(content: Content, run: Run, cell: Optional[Cell] = None) -> Dict[str, str]:
    """What is known of a run, in words.

    Args:
        content (Content): The report's.
        run (Run): One of its runs.
        cell (Cell, optional): Of which number. Defaults to None: a teacher that is no cell has none.

    Returns:
        dict: Field -> text. A run that is not done lacks what is not known yet.
    """
    result = content.results.get(run)
    facts = dict(config=run.name, seed=str(run.seed))
    if result is None:
        facts['state'] = content.states[run]
    elif cell is not None:
        facts[content.measure] = f'{cell.summary["values"][run.seed]:.2f} %'
    if result is not None:
        there = (run.work_dir / result['checkpoint']).is_file()
        facts['checkpoint'] = f'{run.work_dir.parent.name}/{run.work_dir.name}/{result["checkpoint"]}' + (
            '' if there else ' (not there any more)')
        facts['SHA-256'] = result['checkpoint_sha256']
    if run.teacher:
        facts['teacher'] = run.teacher.label
        if result is not None:
            facts["teacher's SHA-256"] = result['teacher_sha256']
    facts['epochs'] = str(run.epochs)
    if run.options:
        facts['settings'] = ' '.join(run.command_options(teacher=False))
    if run.processes > 1:
        facts['processes'] = str(run.processes)
    if result is not None:
        facts.update({
            'precision': result['precision'], 'hardware': result['hardware'], 'commit': result['commit'] or 'none',
            'versions': ', '.join(f'{name} {version}' for name, version in result['versions'].items()),
            'wall time': duration(result['wall_time']), 'times begun': str(result['attempts']),
            'date': result['date']})
    elif run.record.get('attempts'):
        facts['times begun'] = str(len(run.record['attempts']))
    facts['command'] = shown_command(run, content.work_dir)
    return facts


def shown_command(run: Run, work_dir: Path) -> str:
    """The command line that does a run again, to be pasted in a checkout, wherever this one lies."""
    relative = os.path.relpath(work_dir)
    folder = f'work_dirs/{Path(work_dir).resolve().name}' if relative.startswith('..') else relative
    words = []
    for word in run.command():
        word = 'python' if word == sys.executable else word
        for prefix, shown in ((work_dir, f'{folder}/'), (zoo_root(), '')):
            word = word.replace(f'{prefix}/', shown)
        words.append(word)
    return shlex.join(words)


def duration(seconds: int) -> str:
    """Such as '3 h 12 min', '2 min 6 s'."""
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'
