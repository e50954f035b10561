"""The random state of a process: Python's, NumPy's and torch's, taken, put back, kept."""
import random
from contextlib import contextmanager

import numpy as np
import torch


def get_rng_state() -> dict:
    """Random states of this process, as plain values and tensors."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = dict(
        python=random.getstate(),
        numpy=(name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        torch=torch.get_rng_state())
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict) -> None:
    """Put back what :func:`get_rng_state` gave."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@contextmanager
def preserve_rng_state():
    """Whatever is drawn inside leaves no trace on what is drawn after."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
