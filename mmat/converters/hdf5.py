"""Reader for dictionaries of arrays that hickle wrote to HDF5."""
import re
from pathlib import Path
from typing import Dict, Union

import torch
from torch import Tensor

from mmat.errors import CheckpointError, MissingPackageError
from mmat.utils.checkpoint import find_checkpoint

# Groups and datasets that hickle adds: /data/KEY (version 1), /data_0/KEY/data_0 (2), /data_0/'KEY'/data_0 (3),
# /data/'KEY'/data (4), /data/"KEY" (5).
_WRAPPER = re.compile(r'data(_\d+)?')


def read_hickle(path: Union[str, Path]) -> Dict[str, Tensor]:
    """Read a dictionary of arrays that any version of hickle wrote.

    Only arrays of floating-point numbers are read. Everything else in the file, such as pickles, is ignored.

    Args:
        path (str | Path): An ``.hkl`` file.

    Returns:
        dict: Tensors by key, in the file's precision. Keys of nested dictionaries are joined by dots.

    Raises:
        MissingFileError: The file does not exist.
        MissingPackageError: h5py is not installed.
        CheckpointError: The file is truncated or not HDF5, holds no such arrays, or two of the same name.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingPackageError('Reading HDF5 files needs h5py. Install it with pip install h5py.') from error
    path = find_checkpoint(path)
    arrays = {}

    def read(name: str, item) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != 'f':
            return
        parts = [part.strip('\'"') for part in name.split('/')]
        key = '.'.join(part for part in parts if not _WRAPPER.fullmatch(part)) or name
        if key in arrays:
            raise CheckpointError(f'{path!r} holds two arrays {key!r}.')
        # torch supports the machine's byte order only.
        arrays[key] = torch.from_numpy(item[()].astype(item.dtype.newbyteorder('='), copy=False))

    try:
        with h5py.File(path) as file:
            file.visititems(read)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f'Cannot read {path!r}: the file is truncated or not HDF5.') from error
    if not arrays:
        raise CheckpointError(f'{path!r} holds no arrays of floating-point numbers.')
    return arrays
