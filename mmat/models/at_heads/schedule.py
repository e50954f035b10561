"""Weights that change during training."""
import math
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Optional, Sequence, Union

# Which arguments each schedule takes, besides type, initial, begin, end and by_epoch.
_OWN_ARGUMENTS = dict(
    constant=(), linear=('final', ), cosine=('final', ), step=('milestones', 'gamma'), exponential=('gamma', ))


@dataclass(frozen=True)
class WeightSchedule:
    """A weight as a function of the training's progress; it has no state, so resuming needs none.

    With ``t`` the number of epochs, or iterations, that are done, held between ``begin`` and ``end``, and
    ``r = (t - begin) / (end - begin)``:

    - 'constant': ``initial``
    - 'linear': ``initial + (final - initial) r``
    - 'cosine': ``final + (initial - final) (1 + cos(pi r)) / 2``
    - 'step': ``initial * gamma ** (number of milestones <= t)``
    - 'exponential': ``initial * gamma ** (t - begin)``

    Args:
        type (str): One of these.
        initial (float): The weight until ``begin``, at least 0.
        final (float): 'linear' and 'cosine': the weight from ``end`` on, at least 0. Defaults to 0.
        begin (int): Where the change begins. Defaults to 0.
        end (int, optional): Where it ends. Defaults to None, the end of training, so that a shortened training
            shortens the schedule with it.
        milestones (Sequence[int]): 'step': where the weight drops, increasing, after ``begin``.
        gamma (float): 'step' and 'exponential': the factor of a drop, in (0, 1]; by epoch, or iteration.
        by_epoch (bool): Whether ``begin``, ``end``, ``milestones`` and ``gamma`` count epochs, over each of which the
            weight stays as it is, or iterations. Defaults to True.

    Raises:
        ValueError: An option outside these.
    """
    type: str
    initial: float
    final: float = 0.
    begin: int = 0
    end: Optional[int] = None
    milestones: Sequence[int] = ()
    gamma: Optional[float] = None
    by_epoch: bool = True

    def __post_init__(self):
        _check_type(self.type)
        for name in ('initial', 'final'):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f'{name} of a weight schedule must be a number of at least 0, got '
                                 f'{getattr(self, name)!r}')
        if not _is_count(self.begin) or (self.end is not None and (not _is_count(self.end) or self.end <= self.begin)):
            raise ValueError(f'a weight schedule must begin at 0 or later and end after that, got begin={self.begin!r} '
                             f'and end={self.end!r}')
        if not isinstance(self.by_epoch, bool):
            raise ValueError(f'by_epoch of a weight schedule must be True or False, got by_epoch={self.by_epoch!r}')
        if 'gamma' in _OWN_ARGUMENTS[self.type] and not (_is_number(self.gamma) and 0 < self.gamma <= 1):
            raise ValueError(f'gamma of a {self.type} schedule must be in (0, 1], got {self.gamma!r}')
        milestones = self.milestones
        if self.type == 'step' and (not isinstance(milestones, Sequence) or not milestones or
                                    not all(map(_is_count, milestones)) or
                                    any(low >= high for low, high in zip([self.begin, *milestones], milestones))):
            raise ValueError(f'milestones of a step schedule must increase, got {milestones!r}')
        # What a config computed with NumPy could not be read from a checkpoint.
        plain = dict(initial=float(self.initial), final=float(self.final), begin=int(self.begin),
                     end=None if self.end is None else int(self.end), milestones=tuple(map(int, milestones)),
                     gamma=None if self.gamma is None else float(self.gamma))
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @classmethod
    def build(cls, weight: Union[float, dict]) -> 'WeightSchedule':
        """From what a config gives as a weight: a number, or a dict of these arguments.

        Raises:
            ValueError: Neither, a dict with an unknown or missing key, or an option out of range.
        """
        if isinstance(weight, cls):
            return weight
        if not isinstance(weight, dict):
            if not _is_number(weight) or weight < 0:
                raise ValueError(f'the weight of a transfer head must be at least 0, got {weight!r}; '
                                 "a schedule is a dict(type='linear', initial=1000, final=0)")
            return cls('constant', weight)
        kind = weight.get('type')
        _check_type(kind)
        takes = ['type', 'initial', *_OWN_ARGUMENTS[kind], 'begin', 'end', 'by_epoch']
        for key in weight:
            if key not in takes:
                close = get_close_matches(key, takes, n=1, cutoff=0.6)
                raise ValueError(f'a {kind} schedule takes no {key!r}; ' +
                                 (f'the closest is {close[0]!r}' if close else f'it takes {", ".join(takes)}'))
        if 'initial' not in weight:
            raise ValueError(f'a {kind} schedule needs `initial`, the weight at its beginning, got {dict(weight)}')
        return cls(**weight)

    @property
    def is_constant(self) -> bool:
        return self.type == 'constant'

    @property
    def greatest(self) -> float:
        """The largest value that the weight takes."""
        return max(self.initial, self.final) if 'final' in _OWN_ARGUMENTS[self.type] else self.initial

    def ended(self, max_epochs: int, max_iters: int) -> dict:
        """All that the weights of a run of this length depend on, in plain values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values['milestones'] = list(self.milestones)
        if self.end is None and 'final' in _OWN_ARGUMENTS[self.type]:
            values['end'] = max_epochs if self.by_epoch else max_iters
        return values

    def at(self, epoch: int, iteration: int, max_epochs: int, max_iters: int) -> float:
        """The weight after so many epochs and iterations of a training of such length.

        Raises:
            ValueError: The schedule begins when the training has ended.
        """
        end = (max_epochs if self.by_epoch else max_iters) if self.end is None else self.end
        if self.type != 'step' and not self.is_constant and end <= self.begin:
            raise ValueError(f'the {self.type} schedule of a weight begins at {self.begin}, but the training ends at '
                             f'{end}; count {"epochs" if self.by_epoch else "iterations"}')
        done = min(max(epoch if self.by_epoch else iteration, self.begin), max(end, self.begin))
        if self.type == 'step':
            return self.initial * self.gamma**sum(milestone <= done for milestone in self.milestones)
        if self.type == 'exponential':
            return self.initial * self.gamma**(done - self.begin)
        if self.is_constant:
            return self.initial
        ratio = (done - self.begin) / (end - self.begin)
        if self.type == 'linear':
            return self.initial + (self.final - self.initial) * ratio
        return self.final + (self.initial - self.final) * (1 + math.cos(math.pi * ratio)) / 2


def _check_type(kind) -> None:
    if not isinstance(kind, str) or kind not in _OWN_ARGUMENTS:
        raise ValueError(f'type of a weight schedule must be one of {sorted(_OWN_ARGUMENTS)}, got {kind!r}')


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 0
