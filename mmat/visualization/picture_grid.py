"""Pictures in rows, each under its title."""
import math
from typing import Sequence

import numpy as np


def draw_picture_grid(cells: Sequence[Sequence[np.ndarray]], titles: Sequence[str], caption: str = '',
                      columns: int = 0):
    """A matplotlib figure of pictures, or groups of them side by side; save it with ``figure.savefig``.

    Args:
        cells (Sequence[Sequence[np.ndarray]]): Groups of pictures, equally many in each; RGB, shape (H, W, 3), uint8 or
            floats in [0, 1].
        titles (Sequence[str]): What to write over each group.
        caption (str): What to write below. Defaults to '', nothing.
        columns (int): Groups in a row. Defaults to 0: about as many as make a square.
    """
    # The Agg canvas alone: no display, and pyplot's global state stays as the caller has it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = len(cells[0])
    columns = min(columns or math.ceil(math.sqrt(len(cells) / width)), len(cells))
    rows = math.ceil(len(cells) / columns)
    lines = 1 + max(title.count('\n') for title in titles)
    figure = Figure((columns * (1.3 * width + 0.25) + 0.1, rows * (1.45 + 0.15 * lines) + 0.35), dpi=130)
    FigureCanvasAgg(figure)
    below = 0.3 / figure.get_figheight()
    grid = figure.add_gridspec(rows, columns, left=0.02, right=0.98, bottom=below,
                               top=1 - 0.3 / figure.get_figheight(), wspace=0.1, hspace=0.1 + 0.12 * lines)
    for index, (group, title) in enumerate(zip(cells, titles)):
        inner = grid[index // columns, index % columns].subgridspec(1, width, wspace=0.04)
        for place, picture in enumerate(group):
            axes = figure.add_subplot(inner[0, place])
            axes.imshow(picture, interpolation='nearest')
            axes.set_axis_off()
            if place == 0:
                # Over the middle of its group.
                axes.annotate(title, (width / 2, 1.03), xycoords='axes fraction', ha='center', va='bottom', fontsize=7)
    if caption:
        figure.text(0.5, 0.3 * below, caption, ha='center', fontsize=7, color='0.35')
    return figure
