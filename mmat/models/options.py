"""Checking options of networks: one clear message for what is not what it should be."""
from typing import Sequence, Tuple


def check_widths(widths: Sequence[int], argument: str, owner: str) -> Tuple[int, ...]:
    """The widths as a tuple.

    Args:
        widths (Sequence[int]): Channels, of one thing each.
        argument (str): How the message calls them, such as 'in_channels'.
        owner (str): Whose they are.

    Raises:
        ValueError: Anything but one or more whole numbers of at least 1.
    """
    if not isinstance(widths, (list, tuple)) or not widths or not all(
            isinstance(width, int) and width >= 1 for width in widths):
        raise ValueError(f'{argument} of {owner} must be a list of channel numbers, such as (256, 512, 512), got '
                         f'{widths!r}')
    return tuple(widths)


def check_number(value: int, argument: str, owner: str, minimum: int = 1) -> int:
    """The value.

    Raises:
        ValueError: Anything but a whole number of at least ``minimum``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f'{argument} of {owner} must be a whole number of at least {minimum}, got {value!r}')
    return value


def check_dropout(value: float, owner: str) -> float:
    """The value.

    Raises:
        ValueError: Anything but a number from 0 to 1.
    """
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f'dropout of {owner} must be a number from 0 to 1, got {value!r}')
    return value
