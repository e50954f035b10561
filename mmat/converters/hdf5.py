"""Arrays in HDF5 files, as hickle writes a dictionary of them."""
import re
from pathlib import Path
from typing import Dict, Union

import torch
from torch import Tensor

from mmat.utils.checkpoint import find_checkpoint

# hickle's own groups and datasets: /data/KEY (version 1), /data_0/KEY/data_0 (2), /data_0/'KEY'/data_0 (3),
# /data/'KEY'/data (4), /data/"KEY" (5).
_WRAPPER = re.compile(r'data(_\d+)?')


def read_hickle(path: Union[str, Path]) -> Dict[str, Tensor]:
    """Read a dictionary of arrays that hickle wrote, in any of its versions' layouts.

    Only arrays of floating-point numbers are read: whatever else hickle can write, pickles among it, is left alone.

    Args:
        path (str | Path): An ``.hkl`` file.

    Returns:
        dict: Tensors by key, in the file's precision. Keys of nested dictionaries are joined by dots.

    Raises:
        FileNotFoundError: There is none.
        ImportError: h5py is not installed.
        ValueError: The file is truncated or no HDF5 file, holds no such arrays, or two of one name.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('reading HDF5 files needs h5py: pip install h5py') from error
    path = find_checkpoint(path)
    arrays = {}

    def read(name: str, item) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != 'f':
            return
        parts = [part.strip('\'"') for part in name.split('/')]
        key = '.'.join(part for part in parts if not _WRAPPER.fullmatch(part)) or name
        if key in arrays:
            raise ValueError(f'{path!r} holds two arrays {key!r}')
        # Torch knows only the machine's own byte order.
        arrays[key] = torch.from_numpy(item[()].astype(item.dtype.newbyteorder('='), copy=False))

    try:
        with h5py.File(path) as file:
            file.visititems(read)
    except (OSError, RuntimeError) as error:
        raise ValueError(f'{path!r} cannot be read as an HDF5 file: it is truncated or something else') from error
    if not arrays:
        raise ValueError(f'{path!r} holds no arrays of floating-point numbers')
    return arrays
