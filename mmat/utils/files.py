"""Atomic file writes."""
import os
from pathlib import Path
from typing import Union


def write_atomic(path: Union[str, Path], content: bytes) -> None:
    """Write a file under a temporary name and rename it when complete. Create missing folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with open(part, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
