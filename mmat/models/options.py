"""Checks of the options of networks."""
from typing import Sequence, Tuple

from mmat.errors import ConfigError


def check_widths(widths: Sequence[int], argument: str, owner: str) -> Tuple[int, ...]:
    """Return numbers of channels as a tuple.

    Args:
        widths (Sequence[int]): Numbers of channels.
        argument (str): Name of the option in the message, such as 'in_channels'.
        owner (str): Name of the class in the message.

    Raises:
        ConfigError: ``widths`` is not a list or tuple of one or more integers of at least 1.
    """
    if not isinstance(widths, (list, tuple)) or not widths or not all(
            isinstance(width, int) and width >= 1 for width in widths):
        raise ConfigError(f'The {argument} of {owner} must be a list of channel numbers, such as (256, 512, 512), got '
                          f'{widths!r}.')
    return tuple(widths)


def check_number(value: int, argument: str, owner: str, minimum: int = 1) -> int:
    """Return the value of an option that must be an integer of at least ``minimum``.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f'The {argument} of {owner} must be a whole number of at least {minimum}, got {value!r}.')
    return value


def check_dropout(value: float, owner: str) -> float:
    """Return a dropout rate.

    Raises:
        ConfigError: ``value`` is not a number from 0 to 1.
    """
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(f'The dropout of {owner} must be a number from 0 to 1, got {value!r}.')
    return value


def check_depth(depth: int, per_block: int, other: int, owner: str) -> int:
    """Return the number of blocks n of a depth ``per_block * n + other``.

    Raises:
        ConfigError: ``depth`` is not an integer of this form with n of at least 1.
    """
    blocks = max(1, round((depth - other) / per_block)) if isinstance(depth, (int, float)) else 1
    nearest = per_block * blocks + other
    if not isinstance(depth, int) or depth != nearest:
        examples = ', '.join(str(per_block * n + other) for n in range(1, 5))
        raise ConfigError(f'The depth of {owner} must be {per_block}n + {other} ({examples}, ...), got {depth!r}. The '
                          f'nearest is {nearest}.')
    return blocks


def check_out_indices(out_indices: Sequence[int], count: int, owner: str) -> Tuple[int, ...]:
    """Return sorted indices of stages as a tuple.

    Raises:
        ConfigError: ``out_indices`` is empty, not a list or tuple, or has an index outside [0, count).
    """
    choices = range(count)
    if not isinstance(out_indices, (list, tuple)) or not out_indices or any(i not in choices for i in out_indices):
        raise ConfigError(f'The out_indices of {owner} must be among {", ".join(map(str, choices))}, got '
                          f'{out_indices!r}.')
    return tuple(sorted(out_indices))
