"""Checking lists of channel numbers."""
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
