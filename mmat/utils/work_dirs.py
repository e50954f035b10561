"""What work directories hold, told from their files' names: without torch, which takes seconds to import."""
import re
from pathlib import Path
from typing import Optional, Sequence


def common_checkpoint(folders: Sequence[Path]) -> Optional[str]:
    """The last checkpoint that every folder has, by its name; a killed group has saved some runs an epoch further.

    Args:
        folders (Sequence[Path]): Work directories of runs that were trained together.

    Returns:
        str | None: Such as 'epoch_3.pth'. None where they are to begin: none has any, or they were stopped while they
            saved their first.

    Raises:
        ValueError: They have checkpoints, but none in common.
    """
    saved = {folder: {path.name: int(path.stem.split('_')[1]) for path in folder.glob('*.pth')
                      if re.fullmatch(r'(epoch|iter)_\d+', path.stem)} for folder in folders}
    common = set.intersection(*map(set, saved.values()))
    if common:
        return max(common, key=next(iter(saved.values())).get)
    named = [bool(names) for folder, names in saved.items() if names or (folder / 'last_checkpoint').is_file()]
    if all(named) and max(map(len, saved.values())) <= 1 and not all(saved.values()):
        return None
    state = ', '.join(f'{folder.name} has {max(names, key=names.get) if names else "none"}'
                      for folder, names in saved.items())
    raise ValueError(f'the runs to resume have no checkpoint in common ({state}, or under other names than epoch_N or '
                     'iter_N): leave those that are far behind or ahead out of --seeds, or train them alone')
