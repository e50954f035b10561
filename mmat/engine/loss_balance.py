"""Detect transfer losses that drown the task's loss."""
from typing import Dict, List, Sequence

import torch
from torch import Tensor


class LossBalance:
    """Compare each head's weighted loss with the student's own loss, averaged over a number of iterations.

    The student's own loss is taken before the weight that soft targets leave it (``task`` in the log).
    Sums stay on the device of the losses; they are read once an interval.

    Args:
        heads (Sequence[str]): Names of the heads.
        interval (int): Iterations to average over, usually those of an epoch.
        limit (float): Ratio from which a head is reported. Defaults to 10.
    """

    def __init__(self, heads: Sequence[str], interval: int, limit: float = 10.):
        self.heads = list(heads)
        self.interval = interval
        self.limit = limit
        self._reported = set()
        self._sums, self._count = None, 0

    def update(self, losses: Dict[str, Tensor]) -> List[str]:
        """Add the losses of an iteration.

        Args:
            losses (dict): Logged values: the total as 'loss', and ``loss_{head}`` or ``loss_{head}.{label}``.

        Returns:
            list[str]: At the end of an interval, a warning for each head that exceeds the limit for the first time.
        """
        total = losses.get('loss')
        if not isinstance(total, Tensor):
            return []
        zero = torch.zeros_like(total)
        heads = [sum((value for key, value in losses.items()
                      if key == f'loss_{head}' or key.startswith(f'loss_{head}.')), zero) for head in self.heads]
        task = losses['task'] if isinstance(losses.get('task'), Tensor) else total - sum(heads)
        values = torch.stack([*heads, task]).detach().double()
        self._sums = values if self._sums is None else self._sums + values
        self._count += 1
        if self._count < self.interval:
            return []
        *means, task = (self._sums / self._count).tolist()
        self._sums, self._count = None, 0
        warnings = []
        for head, mean in zip(self.heads, means):
            if mean > self.limit * abs(task) and head not in self._reported:
                self._reported.add(head)
                warnings.append(
                    f'{head}: its weighted loss is {mean:.4g}, {mean / max(abs(task), 1e-12):.0f} times the loss of '
                    f'the task ({task:.4g}), averaged over an epoch. Lower its weight, see "Which beta?" in the FAQ.')
        return warnings
