"""Warnings about results of a table that are not comparable with each other."""
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Callable, Dict, List, Optional

from mmat.utils.zoo import sha256_of

from ..run import Run


def find_warnings(results: Dict[Run, dict]) -> List[str]:
    """Return a sentence for each inconsistency among finished runs.

    Args:
        results (dict): Run -> content of its ``result.json``.
    """
    hash_file = lru_cache(None)(_hash_file)
    warnings = []
    for run, result in results.items():
        current = hash_file(run.work_dir / result['checkpoint'])
        if current not in (None, result['checkpoint_sha256']):
            warnings.append(f'{run.label}: the checkpoint changed after it was tested (SHA-256 was '
                            f'{_short(result["checkpoint_sha256"])}, now {_short(current)}).')
        if run.is_outdated:
            warnings.append(f'{run.label}: the config changed after training.')
        if run.teacher:
            warnings += _check_teacher(run, result, results.get(run.teacher), hash_file)
    # An interrupted run may have several commits.
    values = dict(commit=[commit for result in results.values() for commit in (result['commit'] or '').split(', ')])
    for field in ('hardware', 'precision'):
        values[field] = [result[field] for result in results.values()]
    for package in dict.fromkeys(package for result in results.values() for package in result['versions']):
        values[f'{package} version'] = [result['versions'].get(package) for result in results.values()]
    for field, each in values.items():
        if len(set(each)) > 1:
            warnings.append(f'The runs differ in {field}: {_tally(each)}.')
    uncommitted = sum('+' in (result['commit'] or '') for result in results.values())
    if uncommitted:
        warnings.append(f'{_runs(uncommitted)} used uncommitted changes of the code (commit marked with +).')
    return warnings


def _check_teacher(run: Run, result: dict, teacher: Optional[dict],
                   hash_file: Callable[[Path], Optional[str]]) -> List[str]:
    if teacher is None:
        return [f'{run.label}: its teacher {run.teacher.label} is missing or not finished.']
    current = hash_file(run.teacher.work_dir / teacher['checkpoint']) or teacher['checkpoint_sha256']
    if current == result['teacher_sha256']:
        return []
    return [f'{run.label}: its teacher {run.teacher.label} changed after training (SHA-256 was '
            f'{_short(result["teacher_sha256"])}, now {_short(current)}).']


def _hash_file(file: Path) -> Optional[str]:
    """Return the SHA-256 of a file, None if it was removed."""
    return sha256_of(file) if file.is_file() else None


def _short(sha256: Optional[str]) -> str:
    return f'{sha256[:12]}…' if sha256 else 'not recorded'


def _runs(count: int) -> str:
    return f'{count} run{"s" if count > 1 else ""}'


def _tally(values) -> str:
    return ', '.join(f'{value or "none"} ({_runs(count)})' for value, count in Counter(values).most_common())
