"""Attention of several networks side by side."""
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
    """Write a picture: a row an image, its columns the image and the overlaid maps of each network and layer.

    Args:
        images (Tensor): RGB in [0, 1], shape (N, 3, H, W).
        attention (dict): Network name -> layer name -> maps of shape (N, h, w).
        path (str | Path): The PNG to write.
        titles (Sequence[str]): What to write beside each image. Defaults to (), nothing.
        caption (str): What to write below. Defaults to '', nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _attention_figure(images, attention, titles, caption).savefig(path)


def render_attention_grid(images: Tensor,
                          attention: Dict[str, Dict[str, Tensor]],
                          titles: Sequence[str] = (),
                          caption: str = '') -> np.ndarray:
    """The picture of :func:`draw_attention_grid` as an array, RGB from 0 to 255, shape (height, width, 3)."""
    canvas = _attention_figure(images, attention, titles, caption).canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def short_names(attention: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Layers as the tops of columns call them: ``group0`` for ``backbone.group0``, where that is not another's too."""
    short = [layer.split('.', 1)[-1] for layer in attention]
    return dict(zip(short if len(set(short)) == len(short) else attention, attention.values()))


def _attention_figure(images: Tensor, attention: Dict[str, Dict[str, Tensor]], titles: Sequence[str], caption: str):
    # The Agg canvas alone: no display, and pyplot's global state stays as the caller has it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [('image', '', images)]
    for network, layers in attention.items():
        columns += [(network, layer, overlay_attention(maps, images)) for layer, maps in layers.items()]
    # A narrow empty column sets each network apart from the one before.
    starts = [i for i, column in enumerate(columns) if i == 0 or column[0] != columns[i - 1][0]]
    ratios, places = [], []
    for index in range(len(columns)):
        if index in starts[1:]:
            ratios.append(0.2)
        places.append(len(ratios))
        ratios.append(1)
    figure = Figure((1.05 * sum(ratios) + 0.6, 1.05 * len(images) + 0.9), dpi=130)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(images), len(ratios), width_ratios=ratios, wspace=0.06, hspace=0.06, left=0.06, right=0.99,
        top=1 - 0.6 / figure.get_figheight(), bottom=0.3 / figure.get_figheight())
    for place, index in zip(places, range(len(columns))):
        network, layer, pictures = columns[index]
        for row, picture in enumerate(pictures):
            axes = figure.add_subplot(grid[row, place])
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
