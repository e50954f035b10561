"""Atomic writes for mmengine's file backends."""
from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend, register_backend

from mmat.utils.files import write_atomic


class AtomicBackend(LocalBackend):
    """mmengine's local backend with atomic writes.

    mmengine writes in place, so a run killed while saving leaves a truncated checkpoint. This backend writes a
    temporary file and renames it when complete.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        write_atomic(filepath, obj)


register_backend('mmat.atomic', AtomicBackend, force=True)
