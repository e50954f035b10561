"""Where a number is from, field by field."""
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional

from mmat.utils.zoo import zoo_root

from ..run import Run, num_joint_runs
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
    record = run.record
    if record.get('batch_seed') is not None:
        facts['batches'] = f'shared, of seed {record["batch_seed"]}'
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
            'wall time': duration(result['wall_time']) + _share(record), 'times begun': str(result['attempts']),
            'date': result['date']})
    elif record.get('attempts'):
        facts['times begun'] = str(len(record['attempts']))
    facts['command'] = shown_command(run, content.work_dir)
    return facts


def _share(record: dict) -> str:
    """What a wall time is where a process trained several seeds."""
    counts = sorted({num_joint_runs(attempt) for attempt in record.get('attempts', ())})
    if not counts or counts[-1] == 1:
        return ''
    return f', its share of one process for {" or ".join(map(str, counts))} seeds'


def shown_command(run: Run, work_dir: Path) -> str:
    """The command line that does a run again, to be pasted in a checkout, wherever this one lies."""
    relative = os.path.relpath(work_dir)
    folder = f'work_dirs/{Path(work_dir).resolve().name}' if relative.startswith('..') else relative
    words = []
    # As it was begun, however this report was asked for.
    record = run.record
    as_begun = replace(run, batch_seed=record.get('batch_seed')) if record else run
    for word in as_begun.command():
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
