"""Curves over a training run, in stacked panels."""
from dataclasses import dataclass
from typing import Dict, Sequence, Tuple

import numpy as np


@dataclass
class Panel:
    """Curves that share a vertical axis.

    Attributes:
        title (str): Label of the vertical axis.
        curves (dict): Label -> x and y, two arrays of the same length.
        stairs (bool): Hold each value until the next one. Defaults to False, straight lines.
    """
    title: str
    curves: Dict[str, Tuple[np.ndarray, np.ndarray]]
    stairs: bool = False


def draw_panels(panels: Sequence[Panel], xlabel: str, title: str = ''):
    """Draw panels above each other with a common horizontal axis and return the matplotlib figure."""
    # The Agg canvas needs no display and does not change pyplot's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((8, 0.8 + 2.7 * len(panels)), dpi=130, layout='constrained')
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, axes in zip(panels, rows):
        for label, (x, y) in panel.curves.items():
            axes.plot(x, y, label=label, linewidth=1.2, marker='' if len(y) > 1 else 'o',
                      drawstyle='steps-post' if panel.stairs else 'default')
        axes.set_ylabel(panel.title)
        axes.grid(alpha=0.3)
        # One legend for all panels with the same curves.
        if len(panel.curves) > 1 and (panel is panels[0] or list(panel.curves) != list(panels[0].curves)):
            axes.legend(fontsize=8)
    rows[-1].set_xlabel(xlabel)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
