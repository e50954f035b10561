"""The history of a logged scalar, at the same cost in the 200,000th iteration as in the first."""
from typing import List, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

# Values that wait on the device; so many at most, should nobody ever read them.
_MOST_WAITING = 1000


class ScalarHistory(HistoryBuffer):
    """mmengine's HistoryBuffer, whose arrays grow by doubling, and which takes tensors as they are.

    mmengine copies the whole history at every value, and reads every value from the device at once, which stops the
    host until a GPU has caught up. Here a tensor waits, detached, until someone reads the history: with mmengine's
    logger that is once every logging interval, for all values since.

    Args:
        log_history (Sequence[float]): Values so far. Defaults to none.
        count_history (Sequence[int]): What each counts for. Defaults to none.
        max_length (int): How many values are kept at least; the oldest go. Defaults to 1,000,000, as there.

    Raises:
        ValueError: At run time: a tensor of more than one element.
        TypeError: At run time: what is no number.
    """

    def __init__(self, log_history=(), count_history=(), max_length: int = 1000000):
        self._length = 0
        self._waiting: List[Tensor] = []
        self._arrays = np.empty((2, 64))
        super().__init__(log_history, count_history, max_length)

    def update(self, log_val: Union[int, float, Tensor], count: int = 1) -> None:
        if isinstance(log_val, Tensor):
            if log_val.numel() != 1:
                raise ValueError(f'a logged scalar must have one element, got a tensor of shape {tuple(log_val.shape)}')
            if count == 1:
                log_val = log_val.detach().reshape(())
                # A view would keep all that it is a view of.
                self._waiting.append(log_val.clone() if log_val.untyped_storage().nbytes() > 64 else log_val)
                if len(self._waiting) >= _MOST_WAITING:
                    self._read()
                return
            log_val = log_val.item()
        if not isinstance(log_val, (int, float)) or not isinstance(count, (int, float)):
            raise TypeError(f'a logged scalar and its count must be numbers, got {log_val!r} and {count!r}')
        self._read()
        self._append([log_val], [count])

    def _read(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            alike = len({(value.dtype, value.device) for value in waiting}) == 1
            self._append(torch.stack(waiting).tolist() if alike else [value.item() for value in waiting],
                         [1] * len(waiting))

    def _append(self, values: list, counts: list) -> None:
        end = self._length + len(values)
        if end > self._arrays.shape[1]:
            kept = min(self._length, self.max_length)
            # Room for as many again, so that copying costs the same for each value, however many there are.
            arrays = np.empty((2, 2 * (kept + len(values))))
            arrays[:, :kept] = self._arrays[:, self._length - kept:self._length]
            self._arrays, end = arrays, kept + len(values)
        self._arrays[:, end - len(values):end] = values, counts
        self._length = end

    def _history(self, row: int) -> np.ndarray:
        self._read()
        return self._arrays[row, max(0, self._length - self.max_length):self._length]

    # What HistoryBuffer's statistics, and those that users register, read.

    @property
    def _log_history(self) -> np.ndarray:
        return self._history(0)

    @_log_history.setter
    def _log_history(self, values) -> None:
        self._waiting, self._length = [], 0
        self._append(list(values), [1] * len(values))

    @property
    def _count_history(self) -> np.ndarray:
        return self._history(1)

    @_count_history.setter
    def _count_history(self, counts) -> None:
        self._history(1)[:] = counts

    def __reduce__(self) -> tuple:
        # Copies and checkpoints of mmengine's own hook hold what can be read without mmat.
        return HistoryBuffer, (self._log_history.copy(), self._count_history.copy(), self.max_length)
