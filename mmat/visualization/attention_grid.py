"""Grids of attention maps of several networks."""
from pathlib import Path
from typing import Dict, Sequence, Union

import numpy as np
from torch import Tensor

from mmat.attention import overlay_attention


def draw_attention_grid(images: Tensor,
                        attention: Dict[str, Dict[str, Tensor]],
                        path: Union[str, Path],
                        titles: Sequence[str] = (),
                        caption: str = '') -> None:
    """Write a picture with a row for each image: the image, then its overlaid maps of each network and layer.

    Args:
        images (Tensor): RGB in [0, 1], shape (N, 3, H, W).
        attention (dict): Network name -> layer name -> maps of shape (N, h, w).
        path (str | Path): PNG file to write.
        titles (Sequence[str]): Text beside each image. Defaults to (), none.
        caption (str): Text below the grid. Defaults to ''.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _attention_figure(images, attention, titles, caption).savefig(path)


def render_attention_grid(images: Tensor,
                          attention: Dict[str, Dict[str, Tensor]],
                          titles: Sequence[str] = (),
                          caption: str = '') -> np.ndarray:
    """Return the picture of :func:`draw_attention_grid` as a uint8 RGB array of shape (height, width, 3)."""
    canvas = _attention_figure(images, attention, titles, caption).canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def short_names(attention: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Remove the first part of layer names, as in ``group0`` for ``backbone.group0``, unless two would be equal."""
    short = [layer.split('.', 1)[-1] for layer in attention]
    return dict(zip(short if len(set(short)) == len(short) else attention, attention.values()))


def _attention_figure(images: Tensor, attention: Dict[str, Dict[str, Tensor]], titles: Sequence[str], caption: str):
    # The Agg canvas needs no display and does not change pyplot's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [('image', '', images)]
    for network, layers in attention.items():
        columns += [(network, layer, overlay_attention(maps, images)) for layer, maps in layers.items()]
    # A narrow empty column separates the networks.
    starts = [i for i, column in enumerate(columns) if i == 0 or column[0] != columns[i - 1][0]]
    ratios, positions = [], []
    for index in range(len(columns)):
        if index in starts[1:]:
            ratios.append(0.2)
        positions.append(len(ratios))
        ratios.append(1)
    figure = Figure((1.05 * sum(ratios) + 0.6, 1.05 * len(images) + 0.9), dpi=130)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(images), len(ratios), width_ratios=ratios, wspace=0.06, hspace=0.06, left=0.06, right=0.99,
        top=1 - 0.6 / figure.get_figheight(), bottom=0.3 / figure.get_figheight())
    for index, (network, layer, pictures) in enumerate(columns):
        for row, picture in enumerate(pictures):
            axes = figure.add_subplot(grid[row, positions[index]])
            axes.imshow(picture.clamp(0, 1).permute(1, 2, 0).cpu().numpy(), interpolation='nearest')
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if row == 0 and layer:
                axes.set_title(layer, fontsize=7, pad=2)
            if row == 0 and index in starts:
                # Above the middle of this network's columns.
                width = sum(1 for column in columns if column[0] == network)
                axes.annotate(network, (width / 2, 1.24 if index else 1.06), xycoords='axes fraction', ha='center',
                              va='bottom', fontsize=8.5, fontweight='bold')
            if index == 0 and row < len(titles):
                axes.set_ylabel(titles[row], fontsize=8)
    if caption:
        figure.text(0.5, 0.08 / figure.get_figheight(), caption, ha='center', fontsize=7, color='0.35')
    return figure
