"""Checkpoints in work directories, by file name. Does not import torch, which takes seconds."""
import re
from pathlib import Path
from typing import Optional, Sequence

from mmat.errors import CheckpointError


def common_checkpoint(folders: Sequence[Path]) -> Optional[str]:
    """Return the name of the last checkpoint that every folder has.

    When a group of runs is killed, some runs may have saved one epoch more than others.

    Args:
        folders (Sequence[Path]): Work directories of runs that are trained together.

    Returns:
        str | None: Such as 'epoch_3.pth'. None if the runs should start from scratch: no folder has a checkpoint, or
            the runs were killed while they saved their first one.

    Raises:
        CheckpointError: The folders have checkpoints, but none in common.
    """
    saved = {folder: {path.name: int(path.stem.split('_')[1]) for path in folder.glob('*.pth')
                      if re.fullmatch(r'(epoch|iter)_\d+', path.stem)} for folder in folders}
    common = set.intersection(*map(set, saved.values()))
    if common:
        return max(common, key=next(iter(saved.values())).get)
    # A folder can also have checkpoints under other names.
    started = [bool(names) for folder, names in saved.items() if names or (folder / 'last_checkpoint').is_file()]
    if all(started) and max(map(len, saved.values())) <= 1 and not all(saved.values()):
        return None
    state = ', '.join(f'{folder.name} has {max(names, key=names.get) if names else "no epoch_N.pth or iter_N.pth"}'
                      for folder, names in saved.items())
    raise CheckpointError(f'Cannot resume runs without a common checkpoint: {state}. Remove the runs that are ahead or '
                          'behind from --seeds, or train them one by one.')
