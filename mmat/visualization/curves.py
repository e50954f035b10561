"""Curves over a training, one panel above the other."""
from dataclasses import dataclass
from typing import Dict, Sequence, Tuple

import numpy as np


@dataclass
class Panel:
    """Curves on one scale.

    Attributes:
        title (str): What is drawn, beside the axis.
        curves (dict): Label -> where and what, two arrays of one length.
        stairs (bool): Whether a value stays until the next one. Defaults to False, straight lines between.
    """
    title: str
    curves: Dict[str, Tuple[np.ndarray, np.ndarray]]
    stairs: bool = False


def draw_panels(panels: Sequence[Panel], xlabel: str, title: str = ''):
    """A matplotlib figure of the panels over one axis of time; save it with ``figure.savefig``."""
    # The Agg canvas alone: no display, and pyplot's global state stays as the caller has it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((8, 0.8 + 2.7 * len(panels)), dpi=130, layout='constrained')
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, axes in zip(panels, rows):
        for label, (places, values) in panel.curves.items():
            axes.plot(places, values, label=label, linewidth=1.2, marker='' if len(values) > 1 else 'o',
                      drawstyle='steps-post' if panel.stairs else 'default')
        axes.set_ylabel(panel.title)
        axes.grid(alpha=0.3)
        # Once for all panels where they have the same curves.
        if len(panel.curves) > 1 and (panel is panels[0] or list(panel.curves) != list(panels[0].curves)):
            axes.legend(fontsize=8)
    rows[-1].set_xlabel(xlabel)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
