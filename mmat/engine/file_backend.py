"""mmengine's files, whole or not there."""
from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend, register_backend

from mmat.utils.files import write_atomic


class AtomicBackend(LocalBackend):
    """mmengine's local files, written beside their place and moved there when they are complete.

    mmengine writes in place: a run killed while it saves leaves half a checkpoint under the right name.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        write_atomic(filepath, obj)


register_backend('mmat.atomic', AtomicBackend, force=True)
