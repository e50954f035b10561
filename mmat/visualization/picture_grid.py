"""Grids of pictures with titles."""
import math
from typing import Sequence

import numpy as np


def draw_picture_grid(cells: Sequence[Sequence[np.ndarray]], titles: Sequence[str], caption: str = '',
                      columns: int = 0):
    """Draw cells of one or more pictures in a grid and return the matplotlib figure.

    Args:
        cells (Sequence[Sequence[np.ndarray]]): Pictures of each cell, the same number in every cell; RGB of shape
            (H, W, 3), uint8 or floats in [0, 1].
        titles (Sequence[str]): Title above each cell.
        caption (str): Text below the grid. Defaults to ''.
        columns (int): Cells in a row. Defaults to 0, for an approximately square grid.
    """
    # The Agg canvas needs no display and does not change pyplot's global state.
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
    for index, (cell, title) in enumerate(zip(cells, titles)):
        inner = grid[index // columns, index % columns].subgridspec(1, width, wspace=0.04)
        for column, picture in enumerate(cell):
            axes = figure.add_subplot(inner[0, column])
            axes.imshow(picture, interpolation='nearest')
            axes.set_axis_off()
            if column == 0:
                # Above the middle of the cell.
                axes.annotate(title, (width / 2, 1.03), xycoords='axes fraction', ha='center', va='bottom', fontsize=7)
    if caption:
        figure.text(0.5, 0.3 * below, caption, ha='center', fontsize=7, color='0.35')
    return figure
