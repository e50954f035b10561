"""Exceptions for mistakes that a user can correct.

The command lines print a :class:`UserError` in one line. Every other exception keeps its traceback, because it is a bug
in mmat or in a user's own code.
"""
from difflib import get_close_matches
from typing import Iterable


class UserError(ValueError):
    """A user's mistake: in a config, a command line, a checkpoint, a data set or an argument.

    The message is one or more sentences on one line. It names the thing, what was expected and, where there is one, the
    nearest valid choice.
    """

    def one_line(self) -> str:
        """The message alone.

        torch re-raises an exception of a DataLoader worker with the worker's traceback as its message; the traceback
        ends with the type and the message of the original.
        """
        return str(self).rpartition(f'{type(self).__module__}.{type(self).__qualname__}: ')[2].strip()


class ConfigError(UserError):
    """A setting of a config or of ``--cfg-options`` that is missing, unknown or out of range."""


class LayerError(UserError):
    """A layer that a network does not have, does not run, or whose output cannot be read."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not fit the network."""


class DataError(UserError):
    """A data set that is incomplete, damaged, or not in the expected layout."""


class FileError(UserError, OSError):
    """A file or an address that cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """A file, a folder or a name that does not exist."""


class MissingPackageError(UserError, ImportError):
    """An optional package that is not installed."""


def did_you_mean(name: object, choices: Iterable[object], n: int = 3, cutoff: float = 0.4) -> str:
    """A sentence that suggests the choices closest to a name.

    Args:
        name (object): What the user wrote.
        choices (Iterable): Valid choices.
        n (int): The most suggestions. Defaults to 3.
        cutoff (float): Similarity that a suggestion needs, in [0, 1], see :func:`difflib.get_close_matches`. 0 suggests
            something for any name. Defaults to 0.4.

    Returns:
        str: Such as ``" Did you mean 'a', 'b' or 'c'?"``, with a leading space; empty where nothing is close.
    """
    close = [repr(each) for each in get_close_matches(str(name), dict.fromkeys(map(str, choices)), n, cutoff)]
    if not close:
        return ''
    return f' Did you mean {" or ".join([", ".join(close[:-1])] * (len(close) > 1) + close[-1:])}?'
