"""Find, read and load checkpoints."""
import glob
import pickle
import re
from difflib import get_close_matches
from pathlib import Path
from typing import List, Optional, Sequence, Union

import torch
import torch.nn as nn
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader

from mmat.errors import CheckpointError, MissingFileError, UserError, did_you_mean

from .zoo import fetch_weights

_REMOTE = ('http://', 'https://')


def find_checkpoint(path: Union[str, Path]) -> str:
    """Resolve a path to a checkpoint file.

    Args:
        path (str | Path): A checkpoint file, or a work directory for its last checkpoint. A URL is returned unchanged.

    Returns:
        str: The file.

    Raises:
        MissingFileError: No checkpoint exists at ``path``. The message suggests similar names.
    """
    if str(path).startswith(_REMOTE):
        return str(path)
    path = Path(path)
    if path.is_file():
        return str(path)
    if not path.is_dir():
        raise MissingFileError(f'No checkpoint at {str(path)!r}.{_suggest_nearby(path)}')
    pointer = path / 'last_checkpoint'
    last = Path(pointer.read_text().strip()) if pointer.is_file() else None
    # `last_checkpoint` holds the path at training time. If the folder was moved since, another run may be there now.
    for candidate in (last and path / last.name, last):
        if candidate and candidate.is_file():
            return str(candidate)
    files = sorted((f for f in path.glob('*.pth') if f.name.startswith(('epoch_', 'iter_'))),
                   key=lambda f: int(''.join(filter(str.isdigit, f.stem)) or 0))
    if not files:
        raise MissingFileError(f'The folder {str(path)!r} holds no checkpoint. Expected last_checkpoint, epoch_*.pth '
                               'or iter_*.pth.')
    return str(files[-1])


def _suggest_nearby(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f' The folder {str(parent)!r} does not exist.'
    # A run of a result table is one level below: WORK_DIR/TABLE/CONFIG/seed0.
    runs = sorted(entry.parent for entry in parent.glob(f'*/{glob.escape(path.name)}/seed*/last_checkpoint'))
    if runs:
        return f' Did you mean {str(runs[0])!r}?'
    names = [entry.name for entry in parent.iterdir()
             if entry.suffix == '.pth' or (entry / 'last_checkpoint').is_file() or any(entry.glob('*.pth'))]
    if not names:
        return f' The folder {str(parent)!r} holds no checkpoints.'
    close = get_close_matches(path.name, names, n=3, cutoff=0.6)
    return did_you_mean(path, [parent / name for name in close], cutoff=0)


def read_checkpoint(path: Union[str, Path]) -> dict:
    """Read a checkpoint onto the CPU with ``weights_only=True``, so no code in it runs.

    Checkpoints of mmengine's CheckpointHook are supported too; plain ``torch.load`` refuses their log history.

    Args:
        path (str | Path): See :func:`find_checkpoint`.

    Returns:
        dict: The checkpoint's content.

    Raises:
        MissingFileError: No checkpoint exists at ``path``.
        FileError: The download failed.
        CheckpointError: The file is truncated, not a checkpoint, not the published file of that name, or holds more
            than tensors and plain values.
    """
    path = find_checkpoint(path)
    # mmengine's loader unpickles anything.
    file = fetch_weights(path)
    try:
        with torch.serialization.safe_globals(_mmengine_globals()):
            content = torch.load(file, map_location='cpu', weights_only=True)
    except Exception as error:  # damaged bytes can raise any exception while they are parsed
        found = re.search(r'GLOBAL (\S+)', str(error))
        if found:
            raise CheckpointError(f'Refused to load checkpoint {path!r}: it holds the Python object {found[1]!r}, not '
                                  'only tensors and plain values. Save its `state_dict` alone.') from error
        # Leave torch's message out: it recommends weights_only=False.
        raise CheckpointError(f'Cannot read checkpoint {path!r}: the file is truncated or not a checkpoint '
                              f'({type(error).__name__}).') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'Checkpoint {path!r} holds a {type(content).__name__}, expected a dict.')
    return content


def _mmengine_globals() -> list:
    """Classes in mmengine's own checkpoints: log histories, which hold NumPy arrays."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    def get_statistic(owner, name):
        # Replaces getattr, which could reach anything, by access to the buffer's own statistics.
        if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
            raise pickle.UnpicklingError(f'GLOBAL builtins.getattr of {name!r}')  # the wording of torch's refusals
        return getattr(owner, name)

    multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
    arrays = [(getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
              for name in ('_reconstruct', 'scalar') for core in ('core', '_core')]
    dtypes = [type(np.dtype(kind)) for kind in ('float64', 'float32', 'int64', 'bool')]
    return [HistoryBuffer, np.ndarray, np.dtype, *arrays, *dtypes, (get_statistic, 'builtins.getattr')]


@CheckpointLoader.register_scheme(prefixes=_REMOTE, force=True)
def load_from_http(filename: str, map_location=None) -> dict:
    """Download and read a checkpoint, for ``init_cfg=dict(type='Pretrained')`` with a URL.

    Replaces mmengine's loader, which unpickles anything. Rank 0 downloads; the other ranks read the downloaded file.

    Raises:
        FileError, CheckpointError: See :func:`read_checkpoint`. Raised in every process.
    """
    content, failure = None, [None]
    if get_rank() == 0:
        try:
            content = read_checkpoint(filename)
        except (OSError, UserError) as error:
            failure = [error]
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]
    return content if content is not None else read_checkpoint(filename)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside a distributed wrapper, or the network itself."""
    return model.module if is_model_wrapper(model) else model


def strip_module_prefix(state: dict) -> dict:
    """Remove the ``module.`` that distributed wrappers put before the keys of a state dict."""
    return {key[7:] if key.startswith('module.') else key: value for key, value in state.items()}


def checkpoint_classes(checkpoint: dict) -> Optional[Sequence[str]]:
    """Return the class names of a checkpoint by label, or None if it has none."""
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    # mmpretrain 1.x has dataset_meta, 0.x has CLASSES.
    dataset_meta = meta.get('dataset_meta')
    return (dataset_meta.get('classes') if isinstance(dataset_meta, dict) else meta.get('CLASSES')) or None


def load_weights(model: nn.Module, path: Union[str, Path]) -> dict:
    """Load a checkpoint's weights into ``model``. All keys must match.

    The class names of the checkpoint, if any, become ``model._dataset_meta['classes']``.

    Args:
        model (nn.Module): The network, or its distributed wrapper.
        path (str | Path): See :func:`find_checkpoint`. The file holds a ``state_dict``, or is one.

    Returns:
        dict: The checkpoint.

    Raises:
        MissingFileError, FileError: See :func:`read_checkpoint`.
        CheckpointError: See :func:`read_checkpoint` and :func:`load_state`.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f'Checkpoint {str(path)!r} holds no state dict. Expected weights by name, under '
                              "'state_dict' or at the top level.")
    load_state(model, strip_module_prefix(state), f'Checkpoint {str(path)!r}')
    classes = checkpoint_classes(checkpoint)
    if classes:
        unwrap(model)._dataset_meta = dict(classes=classes)
    return checkpoint


def load_state(model: nn.Module, state: dict, source: str) -> None:
    """Load a state dict into ``model``. All keys must match; only ``num_batches_tracked`` may be missing.

    Args:
        model (nn.Module): The network, or its distributed wrapper.
        state (dict): Weights by name.
        source (str): Name of the weights' source in error messages.

    Raises:
        CheckpointError: Keys or shapes do not match. The message lists the first three of each kind.
    """
    model, failure = unwrap(model), None
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, AttributeError) as error:
        failure, own = error, model.state_dict()
        missing, unexpected = [key for key in own if key not in state], [key for key in state if key not in own]
    # Old checkpoints lack this counter, which is unused where BN has a momentum.
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    reason = ' and '.join(filter(None, (_list_keys('missing', missing), _list_keys('unexpected', unexpected))))
    if failure and not reason:
        reshaped = [f'{key}: {tuple(state[key].shape)}, expected {tuple(value.shape)}' for key, value in own.items()
                    if getattr(state.get(key), 'shape', value.shape) != value.shape]
        reason = _list_keys('with another shape', reshaped) or str(failure).splitlines()[-1].strip(' \t.')
    if reason:
        raise CheckpointError(f'{source} does not fit {type(model).__name__}: {reason}. Use the config that the '
                              'checkpoint was trained with.') from failure


def _list_keys(problem: str, keys: List[str]) -> str:
    if not keys:
        return ''
    shown = '; '.join(keys if len(keys) <= 3 else [*keys[:3], '...'])
    return f'{len(keys)} {"key" if len(keys) == 1 else "keys"} {problem} ({shown})'
