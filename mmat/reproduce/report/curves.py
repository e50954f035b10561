"""How a training went, from its logs."""
import math
from dataclasses import dataclass
from typing import Dict, List, Tuple

# From so many epochs on, the loss is drawn as the mean of each.
_EPOCHS_TO_AVERAGE = 20

Points = List[Tuple[float, float]]


@dataclass
class Curve:
    """A training by epoch.

    Attributes:
        value (list[tuple]): Epoch, and the test error, or accuracy, after it, in percent.
        loss (list[tuple]): Time in epochs, and the training loss then, terms of transfer included.
    """
    value: Points
    loss: Points

    @property
    def is_empty(self) -> bool:
        return not self.value and not self.loss


def read_curve(lines: List[dict], metric: str, measure: str) -> Curve:
    """The curve of a run.

    Args:
        lines (list[dict]): As :meth:`mmat.reproduce.run.Run.progress` gives them. What was done again after an
            interruption counts as it was the last time.
        metric (str): What is drawn, such as 'accuracy/top1'.
        measure (str): 'error', 100 minus it, or 'accuracy'.
    """
    values: Dict[int, float] = {}
    losses: Dict[int, Tuple[int, float]] = {}
    for line in lines:
        # Training's lines have an epoch beside their step, the iteration.
        if 'epoch' in line and _is_number(line.get('loss')):
            losses[line['iter']] = line['epoch'], line['loss']
        elif 'epoch' not in line and _is_number(line.get(metric)):
            values[line['step']] = 100 - line[metric] if measure == 'error' else line[metric]
    if not losses:
        return Curve(sorted(values.items()), [])
    # The last line of an epoch is of its last iteration.
    per_epoch = max(iteration / epoch for iteration, (epoch, _) in losses.items())
    loss = [(iteration / per_epoch, value) for iteration, (_, value) in sorted(losses.items())]
    if max(epoch for epoch, _ in losses.values()) > _EPOCHS_TO_AVERAGE:
        epochs: Dict[int, List[float]] = {}
        for epoch, value in losses.values():
            epochs.setdefault(epoch, []).append(value)
        loss = [(epoch, sum(each) / len(each)) for epoch, each in sorted(epochs.items())]
    return Curve(sorted(values.items()), loss)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
