"""Training curves, read from the logs of a run."""
import math
from dataclasses import dataclass
from typing import Dict, List, Tuple

# Above this number of epochs the loss is averaged over each epoch.
_EPOCHS_TO_AVERAGE = 20

Points = List[Tuple[float, float]]


@dataclass
class Curve:
    """The curves of one run.

    Attributes:
        value (list[tuple]): (epoch, test error or accuracy in percent).
        loss (list[tuple]): (epoch, training loss including all transfer terms); epochs may be fractional.
    """
    value: Points
    loss: Points

    @property
    def is_empty(self) -> bool:
        return not self.value and not self.loss


def read_curve(lines: List[dict], metric: str, measure: str) -> Curve:
    """Read the curves of a run.

    Args:
        lines (list[dict]): From :meth:`mmat.reproduce.run.Run.progress`. Of iterations that were repeated after an
            interruption, the last values count.
        metric (str): The metric to show, such as 'accuracy/top1'.
        measure (str): 'error' (100 minus the metric) or 'accuracy'.
    """
    values: Dict[int, float] = {}
    losses: Dict[int, Tuple[int, float]] = {}
    for line in lines:
        # Training lines have an `epoch`, and their `step` is the iteration. Validation lines have no `epoch`.
        if 'epoch' in line and _is_number(line.get('loss')):
            losses[line['iter']] = line['epoch'], line['loss']
        elif 'epoch' not in line and _is_number(line.get(metric)):
            values[line['step']] = 100 - line[metric] if measure == 'error' else line[metric]
    if not losses:
        return Curve(sorted(values.items()), [])
    # The last line of an epoch logs its last iteration.
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
