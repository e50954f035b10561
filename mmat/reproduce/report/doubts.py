"""Reasons not to compare the numbers of a table with each other."""
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Optional

from mmat.utils.zoo import sha256_of

from ..run import Run


def find_doubts(results: Dict[Run, dict]) -> List[str]:
    """What is inconsistent among runs that are done.

    Args:
        results (dict): Run -> what its ``result.json`` says.

    Returns:
        list[str]: A sentence each.
    """
    there = lru_cache(None)(_hash_there)
    doubts = []
    for run, result in results.items():
        now = there(run.work_dir / result['checkpoint'])
        if now not in (None, result['checkpoint_sha256']):
            doubts.append(f'The checkpoint of {run.label}, was changed since it was measured: its SHA-256 was '
                          f'{_short(result["checkpoint_sha256"])} and is {_short(now)}.')
        if run.is_outdated:
            doubts.append(f'The config of {run.label}, was changed since it was trained.')
        if run.teacher:
            doubts += _doubt_teacher(run, result, results.get(run.teacher), there)
    # A run that was interrupted may be of several commits.
    differing = dict(commit=[commit for result in results.values() for commit in (result['commit'] or '').split(', ')])
    for what in ('hardware', 'precision'):
        differing[what] = [result[what] for result in results.values()]
    for package in dict.fromkeys(package for result in results.values() for package in result['versions']):
        differing[f'the version of {package}'] = [result['versions'].get(package) for result in results.values()]
    for what, values in differing.items():
        if len(set(values)) > 1:
            doubts.append(f'The runs differ in {what}: {_tally(values)}.')
    changed = sum('+' in (result['commit'] or '') for result in results.values())
    if changed:
        doubts.append(f'The code of {_runs(changed)} had changes that are in no commit (those with a +).')
    return doubts


def _doubt_teacher(run: Run, result: dict, teacher: Optional[dict], there) -> List[str]:
    then = result['teacher_sha256']
    if teacher is None:
        return [f'The teacher of {run.label}, {run.teacher.label}, is not there any more, or not done.']
    now = there(run.teacher.work_dir / teacher['checkpoint']) or teacher['checkpoint_sha256']
    if now == then:
        return []
    return [f'The teacher of {run.label}, was another than the {run.teacher.label}, that is there: its SHA-256 was '
            f'{_short(then)} and is {_short(now)}.']


def _hash_there(file: Path) -> Optional[str]:
    """None where it was removed."""
    return sha256_of(file) if file.is_file() else None


def _short(digest: Optional[str]) -> str:
    return f'{digest[:12]}…' if digest else 'not noted'


def _runs(count: int) -> str:
    return f'{count} run{"s" if count > 1 else ""}'


def _tally(values) -> str:
    return ', '.join(f'{value or "none"} ({_runs(count)})' for value, count in Counter(values).most_common())
