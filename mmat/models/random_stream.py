"""A random stream that is independent of the global random states of Python, NumPy and torch."""
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.runner import set_random_seed
from torch.utils._pytree import tree_map

from mmat.errors import ConfigError
from mmat.utils.rng import get_rng_state, preserve_rng_state, set_rng_state


class RandomStream:
    """A private torch generator and private global random states, for code that accepts no generator.

    Streams of equal seed give equal numbers, independent of all other random numbers. They differ from the global
    numbers of a run with the same seed, so crops do not correlate with initial weights.

    Args:
        seed (int): At least 0.

    Raises:
        ConfigError: ``seed`` is not an integer of at least 0.
    """

    def __init__(self, seed: int):
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f'The seed of a random stream must be an integer of at least 0, got {seed!r}.')
        first, second = np.random.SeedSequence(seed).generate_state(2).tolist()
        self.generator = torch.Generator().manual_seed(first)
        with preserve_rng_state():
            set_random_seed(second)
            self._global = get_rng_state()

    @contextmanager
    def as_global(self):
        """Use this stream for the global random states inside the context, and restore them afterwards."""
        with preserve_rng_state():
            set_rng_state(self._global)
            yield
            self._global = get_rng_state()

    def state_dict(self) -> dict:
        """Return the position of the stream as plain values and tensors."""
        return {'generator': self.generator.get_state(), 'global': self._global}

    def load_state_dict(self, state: dict) -> None:
        """Restore a position from :meth:`state_dict`."""
        self.generator.set_state(state['generator'].cpu())
        self._global = tree_map(lambda each: each.cpu() if isinstance(each, torch.Tensor) else each, state['global'])
