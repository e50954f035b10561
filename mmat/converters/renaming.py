"""Renaming of weights."""
import re
from typing import Dict

from torch import Tensor

from mmat.errors import CheckpointError

# Parameters and buffers of a BN. PyTorch before 0.4.1 did not save the last.
BN = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


def rename(state: Dict[str, Tensor], keys: Dict[str, str], network: str) -> Dict[str, Tensor]:
    """Rename every weight.

    Args:
        state (dict): Weights by source name.
        keys (dict): Source name -> target name. ``num_batches_tracked`` may be missing in ``state``.
        network (str): Expected network, for the message.

    Returns:
        dict: Weights by target name, in the order of ``keys``.

    Raises:
        CheckpointError: ``state`` lacks weights, or has weights that ``keys`` does not name.
    """
    missing = [key for key in keys if key not in state and not key.endswith('num_batches_tracked')]
    unexpected = [key for key in state if key not in keys]
    if missing or unexpected:
        parts = [f'{len(names)} keys are {problem} ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})'
                 for problem, names in (('missing', missing), ('unexpected', unexpected)) if names]
        raise CheckpointError(f'The weights do not fit {network}: {", ".join(parts)}.')
    return {target: state[source] for source, target in keys.items() if source in state}


def count_blocks(state: Dict[str, Tensor], prefix: str) -> int:
    """Count the different numbers after ``prefix`` in the names, such as ``group0.block2.``; at least 1."""
    pattern = re.compile(rf'{re.escape(prefix)}(\d+)\.')
    return max(1, len({match[1] for match in map(pattern.match, state) if match}))
