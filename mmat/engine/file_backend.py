"""Files that are whole or not there."""
import os
from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend, register_backend


class AtomicBackend(LocalBackend):
    """mmengine's local files, written beside their place and moved there when they are complete.

    mmengine writes in place: a run killed while it saves leaves half a checkpoint under the right name.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        filepath = Path(filepath)
        filepath.parent.mkdir(parents=True, exist_ok=True)
        part = filepath.with_name(f'.{filepath.name}.{os.getpid()}.part')
        try:
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, filepath)
        finally:
            part.unlink(missing_ok=True)


register_backend('mmat.atomic', AtomicBackend, force=True)
