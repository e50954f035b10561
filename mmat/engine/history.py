"""A log history with constant cost per value."""
from typing import List, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

# Most tensors kept on the device when no one reads the history.
_MAX_PENDING = 1000


class ScalarHistory(HistoryBuffer):
    """mmengine's HistoryBuffer with arrays that grow by doubling, and without a device synchronization per value.

    mmengine copies the whole history for every value and reads each value from the device at once, which blocks the
    host until the GPU has caught up. This class keeps tensors, detached, until the history is read: with mmengine's
    logger once per logging interval.

    Args:
        log_history (Sequence[float]): Initial values. Defaults to none.
        count_history (Sequence[int]): Their counts. Defaults to none.
        max_length (int): At least this many of the latest values are kept. Defaults to 1,000,000, as in mmengine.

    Raises:
        ValueError: At run time, for a tensor of more than one element.
        TypeError: At run time, for a value that is not a number.
    """

    def __init__(self, log_history=(), count_history=(), max_length: int = 1000000):
        self._length = 0
        self._pending: List[Tensor] = []
        self._arrays = np.empty((2, 64))
        super().__init__(log_history, count_history, max_length)

    def update(self, log_val: Union[int, float, Tensor], count: int = 1) -> None:
        if isinstance(log_val, Tensor):
            if log_val.numel() != 1:
                raise ValueError(f'A logged scalar must have one element, got a tensor of shape {tuple(log_val.shape)}')
            if count == 1:
                log_val = log_val.detach().reshape(())
                # A view would keep its base tensor alive.
                self._pending.append(log_val.clone() if log_val.untyped_storage().nbytes() > 64 else log_val)
                if len(self._pending) >= _MAX_PENDING:
                    self._flush()
                return
            log_val = log_val.item()
        if not isinstance(log_val, (int, float)) or not isinstance(count, (int, float)):
            raise TypeError(f'A logged scalar and its count must be numbers, got {log_val!r} and {count!r}')
        self._flush()
        self._append([log_val], [count])

    def _flush(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, []
            alike = len({(value.dtype, value.device) for value in pending}) == 1
            self._append(torch.stack(pending).tolist() if alike else [value.item() for value in pending],
                         [1] * len(pending))

    def _append(self, values: list, counts: list) -> None:
        end = self._length + len(values)
        if end > self._arrays.shape[1]:
            kept = min(self._length, self.max_length)
            # Doubling makes the copies' cost per value constant.
            arrays = np.empty((2, 2 * (kept + len(values))))
            arrays[:, :kept] = self._arrays[:, self._length - kept:self._length]
            self._arrays, end = arrays, kept + len(values)
        self._arrays[:, end - len(values):end] = values, counts
        self._length = end

    def _history(self, row: int) -> np.ndarray:
        self._flush()
        return self._arrays[row, max(0, self._length - self.max_length):self._length]

    # Attributes read by HistoryBuffer's statistics and by registered ones.

    @property
    def _log_history(self) -> np.ndarray:
        return self._history(0)

    @_log_history.setter
    def _log_history(self, values) -> None:
        self._pending, self._length = [], 0
        self._append(list(values), [1] * len(values))

    @property
    def _count_history(self) -> np.ndarray:
        return self._history(1)

    @_count_history.setter
    def _count_history(self, counts) -> None:
        self._history(1)[:] = counts

    def __reduce__(self) -> tuple:
        # Copies, and checkpoints of mmengine's own hook, can be read without mmat.
        return HistoryBuffer, (self._log_history.copy(), self._count_history.copy(), self.max_length)
