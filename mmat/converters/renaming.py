"""Renaming weights, with one message where they are another network's."""
import re
from typing import Dict

from torch import Tensor

# What a BN keeps. Torch before 0.4.1 did not save the last.
BN = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


def rename(state: Dict[str, Tensor], keys: Dict[str, str], network: str) -> Dict[str, Tensor]:
    """Rename every weight.

    Args:
        state (dict): Weights by their names.
        keys (dict): Their names -> ours. ``num_batches_tracked`` may be missing in ``state``, all else must be there.
        network (str): How the message calls the network that the weights should be of.

    Returns:
        dict: Weights by our names, in the order of ``keys``.

    Raises:
        ValueError: Weights that ``keys`` does not have, or that are missing.
    """
    missing = [key for key in keys if key not in state and not key.endswith('num_batches_tracked')]
    unexpected = [key for key in state if key not in keys]
    if missing or unexpected:
        parts = [f'it {verb} {len(names)} ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})'
                 for verb, names in (('lacks', missing), ('also has', unexpected)) if names]
        raise ValueError(f'not the weights of {network}: {"; ".join(parts)}')
    return {ours: state[theirs] for theirs, ours in keys.items() if theirs in state}


def count_blocks(state: Dict[str, Tensor], prefix: str) -> int:
    """How many numbers follow ``prefix`` in the names, as in ``group0.block2.``; one where there are none."""
    pattern = re.compile(rf'{re.escape(prefix)}(\d+)\.')
    return max(1, len({match[1] for match in map(pattern.match, state) if match}))
