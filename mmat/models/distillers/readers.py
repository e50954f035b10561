"""Layers, quantities and teachers that transfer heads read."""
import math
from typing import Any, Collection, Dict, List, Sequence

from mmat.errors import ConfigError, did_you_mean

from ..at_heads.base import BaseATHead
from ..taps import Layer


def layers_of(heads: Sequence[BaseATHead], side: str) -> Dict[Layer, str]:
    """Return the layers that heads read of the 'student' or the 'teacher': name -> module path.

    A layer appears under its name in ``pairs`` and under its module path.
    """
    layers: Dict[Layer, str] = {}
    for head in heads:
        paths = getattr(head, f'{side}_paths')
        layers.update(zip(getattr(head, f'{side}_layers'), paths))
        layers.update(zip(paths, paths))
    return layers


def wants_of(heads: Sequence[BaseATHead], side: str) -> List[str]:
    """Return the quantities that heads read of the 'student' or the 'teacher', each once."""
    return list(dict.fromkeys(name for head in heads for name in getattr(head, f'{side}_wants')))


def assign_teachers(heads: Sequence[BaseATHead], teachers: Collection[str]) -> Dict[BaseATHead, Dict[str, float]]:
    """Return head -> name of each teacher that it reads -> weight."""
    readers = {}
    for head in heads:
        chosen = head.teacher
        if not head.needs_teacher:
            continue
        if not teachers:
            raise ConfigError(f'The transfer head {head.name!r} reads a teacher, but the distiller has none. Give it '
                              'teacher=dict(model=..., checkpoint=...).')
        if chosen is None and len(teachers) > 1:
            raise ConfigError(f'The transfer head {head.name!r} must name its teacher, one of {list(teachers)}: '
                              f'teacher={next(iter(teachers))!r}.')
        if isinstance(chosen, dict) and len(chosen) > 1 and not head.averages_teachers:
            raise ConfigError(f'{type(head).__name__} reads one teacher, got teacher={dict(chosen)}.')
        weights = dict(chosen) if isinstance(chosen, dict) else {chosen or next(iter(teachers)): 1.}
        for name, weight in weights.items():
            if name not in teachers:
                raise ConfigError(f'The transfer head {head.name!r} names an unknown teacher {name!r}.' +
                                  (did_you_mean(name, teachers) or f' The teachers are {list(teachers)}.'))
            if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not 0 < weight < math.inf:
                raise ConfigError(f'The weight of teacher {name!r} must be above 0, got {weight!r}.')
        readers[head] = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    return readers


def teachers_of(model: dict) -> Dict[str, Any]:
    """Return the teachers of a distiller's config: name -> config; a single ``teacher`` is named 'teacher'.

    A model of another type has none, whatever its arguments are called.
    """
    kind = model.get('type', 'Distiller')
    if not (kind if isinstance(kind, str) else kind.__name__).endswith('Distiller'):
        return {}
    teachers = dict(model.get('teachers') or {})
    return {'teacher': model['teacher'], **teachers} if model.get('teacher') else teachers
