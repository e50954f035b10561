"""Weights that change during training."""
import math
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Optional, Sequence, Union

from mmat.errors import ConfigError, did_you_mean

# Arguments of each schedule, besides type, initial, begin, end and by_epoch.
_OWN_ARGUMENTS = dict(
    constant=(), linear=('final', ), cosine=('final', ), step=('milestones', 'gamma'), exponential=('gamma', ))


@dataclass(frozen=True)
class WeightSchedule:
    """A weight as a function of the training's progress. It has no state, so resuming needs none.

    Let ``t`` be the number of epochs or iterations done, clamped to ``[begin, end]``, and
    ``r = (t - begin) / (end - begin)``. The weight is:

    - 'constant': ``initial``
    - 'linear': ``initial + (final - initial) r``
    - 'cosine': ``final + (initial - final) (1 + cos(pi r)) / 2``
    - 'step': ``initial * gamma ** (number of milestones <= t)``
    - 'exponential': ``initial * gamma ** (t - begin)``

    Args:
        type (str): One of the names above.
        initial (float): The weight until ``begin``, at least 0.
        final (float): For 'linear' and 'cosine', the weight from ``end`` on, at least 0. Defaults to 0.
        begin (int): Start of the change. Defaults to 0.
        end (int, optional): End of the change. Defaults to None, the end of training: a shortened training shortens
            the schedule.
        milestones (Sequence[int]): For 'step', increasing points after ``begin`` at which the weight drops.
        gamma (float): For 'step' and 'exponential', the factor of a drop, in (0, 1]. 'exponential' drops every epoch or
            iteration.
        by_epoch (bool): Count epochs if True, so that the weight is constant within an epoch; iterations if False.
            Defaults to True.

    Raises:
        ConfigError: An option is out of range.
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
                raise ConfigError(f'{name} of a weight schedule must be a number of at least 0, got '
                                  f'{getattr(self, name)!r}.')
        if not _is_count(self.begin) or (self.end is not None and (not _is_count(self.end) or self.end <= self.begin)):
            raise ConfigError(f'A weight schedule needs 0 <= begin < end, got begin={self.begin!r}, end={self.end!r}.')
        if not isinstance(self.by_epoch, bool):
            raise ConfigError(f'by_epoch of a weight schedule must be True or False, got {self.by_epoch!r}.')
        if 'gamma' in _OWN_ARGUMENTS[self.type] and not (_is_number(self.gamma) and 0 < self.gamma <= 1):
            raise ConfigError(f'gamma of a {self.type} schedule must be in (0, 1], got {self.gamma!r}.')
        milestones = self.milestones
        if self.type == 'step' and (not isinstance(milestones, Sequence) or not milestones or
                                    not all(map(_is_count, milestones)) or
                                    any(low >= high for low, high in zip([self.begin, *milestones], milestones))):
            raise ConfigError('milestones of a step schedule must be whole numbers that increase from begin, got '
                              f'{milestones!r}.')
        # NumPy values of a config would not load from a checkpoint.
        plain = dict(initial=float(self.initial), final=float(self.final), begin=int(self.begin),
                     end=None if self.end is None else int(self.end), milestones=tuple(map(int, milestones)),
                     gamma=None if self.gamma is None else float(self.gamma))
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @classmethod
    def build(cls, weight: Union[float, dict]) -> 'WeightSchedule':
        """Build a schedule from a config value: a number, or a dict of this class's arguments.

        Raises:
            ConfigError: The value is neither, a key is unknown or missing, or an option is out of range.
        """
        if isinstance(weight, cls):
            return weight
        if not isinstance(weight, dict):
            if not _is_number(weight) or weight < 0:
                raise ConfigError('The weight of a transfer head must be a number of at least 0, or a schedule such as '
                                  f"dict(type='linear', initial=1000, final=0); got {weight!r}.")
            return cls('constant', weight)
        kind = _check_type(weight.get('type'))
        takes = ['type', 'initial', *_OWN_ARGUMENTS[kind], 'begin', 'end', 'by_epoch']
        for key in weight:
            if key not in takes:
                raise ConfigError(f'A {kind} schedule has no argument {key!r}.' +
                                  (did_you_mean(key, takes, cutoff=0.6) or f' Its arguments: {", ".join(takes)}.'))
        if 'initial' not in weight:
            raise ConfigError(f"A {kind} schedule needs 'initial', the weight at the start; got {dict(weight)}.")
        return cls(**weight)

    @property
    def is_constant(self) -> bool:
        """Whether the weight never changes."""
        return self.type == 'constant'

    @property
    def greatest(self) -> float:
        """Largest value of the weight."""
        return max(self.initial, self.final) if 'final' in _OWN_ARGUMENTS[self.type] else self.initial

    def ended(self, max_epochs: int, max_iters: int) -> dict:
        """Return the options as plain values, with ``end`` set for a run of this length."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values['milestones'] = list(self.milestones)
        if self.end is None and 'final' in _OWN_ARGUMENTS[self.type]:
            values['end'] = max_epochs if self.by_epoch else max_iters
        return values

    def at(self, epoch: int, iteration: int, max_epochs: int, max_iters: int) -> float:
        """Compute the weight after a number of epochs and iterations of a training.

        Raises:
            ConfigError: The schedule begins after the end of the training.
        """
        end = (max_epochs if self.by_epoch else max_iters) if self.end is None else self.end
        if self.type != 'step' and not self.is_constant and end <= self.begin:
            unit = 'epoch' if self.by_epoch else 'iteration'
            raise ConfigError(f'The {self.type} schedule of a weight begins at {unit} {self.begin}, but the training '
                              f'ends at {unit} {end}.')
        done = min(max(epoch if self.by_epoch else iteration, self.begin), max(end, self.begin))
        if self.is_constant:
            return self.initial
        if 'gamma' in _OWN_ARGUMENTS[self.type]:
            assert self.gamma is not None
            drops = sum(each <= done for each in self.milestones) if self.type == 'step' else done - self.begin
            return self.initial * self.gamma**drops
        ratio = (done - self.begin) / (end - self.begin)
        if self.type == 'linear':
            return self.initial + (self.final - self.initial) * ratio
        return self.final + (self.initial - self.final) * (1 + math.cos(math.pi * ratio)) / 2


def _check_type(kind: Any) -> str:
    if not isinstance(kind, str) or kind not in _OWN_ARGUMENTS:
        raise ConfigError(f'type of a weight schedule must be one of {sorted(_OWN_ARGUMENTS)}, got {kind!r}.' +
                          did_you_mean(kind, _OWN_ARGUMENTS))
    return kind


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0
