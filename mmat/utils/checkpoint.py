"""Finding, reading and loading checkpoints, with one clear message where that fails."""
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Union

import torch
import torch.nn as nn
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader

from .zoo import fetch_weights

_REMOTE = ('http://', 'https://')


def find_checkpoint(path: Union[str, Path]) -> str:
    """The checkpoint file that ``path`` means.

    Args:
        path (str | Path): A file, or a work directory, which means its last checkpoint. A URL is given back as it is.

    Returns:
        str: The file.

    Raises:
        FileNotFoundError: There is none; the message names the nearest that exist.
    """
    if str(path).startswith(_REMOTE):
        return str(path)
    path = Path(path)
    if path.is_file():
        return str(path)
    if not path.is_dir():
        raise FileNotFoundError(f'no checkpoint at {str(path)!r}{_nearest(path)}')
    pointer = path / 'last_checkpoint'
    last = Path(pointer.read_text().strip()) if pointer.is_file() else None
    # The pointer holds the path as it was when training; the folder may have been moved since, and the old place taken
    # by another run.
    for candidate in (last and path / last.name, last):
        if candidate and candidate.is_file():
            return str(candidate)
    files = sorted((f for f in path.glob('*.pth') if f.name.startswith(('epoch_', 'iter_'))),
                   key=lambda f: int(''.join(filter(str.isdigit, f.stem)) or 0))
    if not files:
        raise FileNotFoundError(f'the folder {str(path)!r} holds no checkpoint (no last_checkpoint, no epoch_*.pth)')
    return str(files[-1])


def _nearest(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f' (there is no folder {str(parent)!r})'
    names = [entry.name for entry in parent.iterdir()
             if entry.suffix == '.pth' or (entry / 'last_checkpoint').is_file() or any(entry.glob('*.pth'))]
    close = get_close_matches(path.name, names, n=3, cutoff=0.4)
    return f'; the closest in {str(parent)!r} are {", ".join(close)}' if close else f'; {str(parent)!r} has none'


def read_checkpoint(path: Union[str, Path]) -> dict:
    """Read a checkpoint onto the CPU, never executing what it holds (``weights_only``).

    Checkpoints of mmengine's own hook are read too, which ``torch.load`` refuses for their history of logged scalars.

    Args:
        path (str | Path): As for :func:`find_checkpoint`.

    Returns:
        dict: Its content.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file is truncated, not a checkpoint, or holds more than tensors and plain values.
    """
    path = find_checkpoint(path)
    # Not mmengine's loader: it unpickles whatever comes.
    file = fetch_weights(path)
    try:
        with torch.serialization.safe_globals(_mmengine_globals()):
            content = torch.load(file, map_location='cpu', weights_only=True)
    except Exception as error:  # a broken file raises whatever its bytes lead to
        found = re.search(r'GLOBAL (\S+)', str(error))
        if found:
            raise ValueError(f'checkpoint {path!r} holds more than tensors and plain values ({found[1]}), so it is '
                             'not read') from error
        # Not torch's own words: they go on to advise reading it without weights_only.
        raise ValueError(f'{path!r} cannot be read as a checkpoint: it is truncated or something else '
                         f'({type(error).__name__})') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path!r} holds {type(content).__name__}, not a checkpoint')
    return content


def _mmengine_globals() -> list:
    """What mmengine's own checkpoints hold beside plain values: the history of the logged scalars, in NumPy arrays."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    def statistic(owner, name):
        # In place of getattr, which could reach anything: only the buffer's own statistics.
        if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
            raise ValueError(f'GLOBAL builtins.getattr of {name!r}')  # as torch words a refusal
        return getattr(owner, name)

    multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
    arrays = [(getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
              for name in ('_reconstruct', 'scalar') for core in ('core', '_core')]
    dtypes = [type(np.dtype(kind)) for kind in ('float64', 'float32', 'int64', 'bool')]
    return [HistoryBuffer, np.ndarray, np.dtype, *arrays, *dtypes, (statistic, 'builtins.getattr')]


@CheckpointLoader.register_scheme(prefixes=_REMOTE, force=True)
def load_from_http(filename: str, map_location=None) -> dict:
    """In place of mmengine's, which unpickles whatever comes: for ``init_cfg=dict(type='Pretrained')`` with a URL.

    The first process downloads, the others read what it got.

    Raises:
        OSError, ValueError: As :func:`read_checkpoint`, in every process.
    """
    content, failure = None, [None]
    if get_rank() == 0:
        try:
            content = read_checkpoint(filename)
        except (OSError, ValueError) as error:
            failure = [error]
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]
    return content if content is not None else read_checkpoint(filename)


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside its wrapper for several processes, where it has one."""
    return model.module if is_model_wrapper(model) else model


def strip_module_prefix(state: dict) -> dict:
    """A state dict without the ``module.`` that such a wrapper puts before its names."""
    return {key[7:] if key.startswith('module.') else key: value for key, value in state.items()}


def load_weights(model: nn.Module, path: Union[str, Path]) -> dict:
    """Load a checkpoint's weights into ``model``: every one of them, and nothing else.

    Args:
        model (nn.Module): The network, or its wrapper for several processes.
        path (str | Path): As for :func:`find_checkpoint`. The file holds ``state_dict``, or is one.

    Returns:
        dict: The checkpoint.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_checkpoint`.
        ValueError: The weights are another network's; the message names the first keys that differ.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f'checkpoint {str(path)!r} holds no state_dict')
    load_state(model, strip_module_prefix(state), f'checkpoint {str(path)!r}')
    return checkpoint


def load_state(model: nn.Module, state: dict, source: str) -> None:
    """Load a state dict into ``model``: every weight, and nothing else.

    Args:
        model (nn.Module): The network, or its wrapper for several processes.
        state (dict): Its weights by name.
        source (str): How messages call where they are from.

    Raises:
        ValueError: The weights are another network's; the message names the first keys that differ.
    """
    model = unwrap(model)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, AttributeError) as error:
        own = model.state_dict()
        missing, unexpected = [key for key in own if key not in state], [key for key in state if key not in own]
        if not missing and not unexpected:
            reshaped = [f'{key}: {tuple(state[key].shape)} there, {tuple(value.shape)} here'
                        for key, value in own.items() if getattr(state[key], 'shape', value.shape) != value.shape]
            raise ValueError(f'{source} does not fit {type(model).__name__}: ' +
                             (_some('has other sizes in', reshaped) or str(error).splitlines()[-1].strip())) from error
    # A counter that old checkpoints lack and that plays no part where BN has a momentum.
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    if missing or unexpected:
        raise ValueError(f'{source} does not fit {type(model).__name__}: {_some("lacks", missing)}'
                         f'{_some("has no use for", unexpected)}')


def _some(verb: str, keys: list) -> str:
    if not keys:
        return ''
    return f'{verb} {len(keys)} keys ({", ".join(keys[:3])}{", ..." if len(keys) > 3 else ""}). '
