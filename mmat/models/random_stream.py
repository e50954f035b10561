"""Random numbers apart from those of Python, NumPy and torch that everything else draws from."""
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.runner import set_random_seed
from torch.utils._pytree import tree_map

from mmat.utils.rng import get_rng_state, preserve_rng_state, set_rng_state


class RandomStream:
    """A generator, and global random states for what takes none, that nobody else moves.

    Streams of equal seed give the same numbers whatever is drawn beside them. They have nothing to do with those of a
    run of that seed, so that its crops do not follow from its weights.

    Args:
        seed (int): At least 0.

    Raises:
        ValueError: Another seed.
    """

    def __init__(self, seed: int):
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f'a seed of random numbers must be an integer of at least 0, got {seed!r}')
        first, second = np.random.SeedSequence(seed).generate_state(2).tolist()
        self.generator = torch.Generator().manual_seed(first)
        with preserve_rng_state():
            set_random_seed(second)
            self._global = get_rng_state()

    @contextmanager
    def as_global(self):
        """What is drawn inside without a generator is this stream's, and leaves no trace on what is drawn after."""
        with preserve_rng_state():
            set_rng_state(self._global)
            yield
            self._global = get_rng_state()

    def state_dict(self) -> dict:
        """Where it is, as plain values and tensors."""
        return {'generator': self.generator.get_state(), 'global': self._global}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state['generator'].cpu())
        self._global = tree_map(lambda each: each.cpu() if isinstance(each, torch.Tensor) else each, state['global'])
