"""Grids of attention maps of several networks."""
from pathlib import Path
from typing import Dict, List, Sequence, Tuple, Union

import numpy as np
from torch import Tensor

from .photographs import MAX_SIDE, Photograph

Images = Union[Tensor, Sequence[Photograph]]

_DPI = 130
# Shortest and longest side of a drawn image in pixels: of one image, and of several.
_SHORT, _LONG = 128, (MAX_SIDE, 256)
# Gaps between cells, between networks and at the left, height of a line of text and width of a character, in pixels.
_GAP, _NETWORK_GAP, _MARGIN, _LINE, _CHARACTER = 8, 35, 40, 18, 9


def draw_attention_grid(images: Images,
                        attention: Dict[str, Dict[str, Tensor]],
                        path: Union[str, Path],
                        titles: Sequence[str] = (),
                        caption: str = '') -> None:
    """Write a picture with a row for each image: the image, then its overlaid maps of each network and layer.

    Images keep their aspect ratio. They are drawn at their own size if their longer side has 128 to 640 pixels, or 256
    if there are several, and otherwise enlarged or reduced to that.

    Args:
        images (Tensor | Sequence[Photograph]): RGB in [0, 1], shape (N, 3, H, W), or N images of any size with the part
            that the maps cover.
        attention (dict): Network name -> layer name -> maps of shape (N, h, w).
        path (str | Path): PNG file to write.
        titles (Sequence[str]): Text beside each image. Defaults to (), none.
        caption (str): Text below the grid. Defaults to ''.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _attention_figure(images, attention, titles, caption).savefig(path)


def render_attention_grid(images: Images,
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


def _drawn_size(image: Tensor, longest: int) -> Tuple[int, int]:
    """Return the width and the height at which an image is drawn, in pixels."""
    height, width = image.shape[-2:]
    scale = min(max(max(height, width), _SHORT), longest) / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _attention_figure(images: Images, attention: Dict[str, Dict[str, Tensor]], titles: Sequence[str], caption: str):
    # The Agg canvas needs no display and does not change pyplot's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    photographs = [Photograph.whole(each) for each in images] if isinstance(images, Tensor) else list(images)
    photographs = [Photograph(each.image.detach().cpu(), each.box) for each in photographs]
    sizes = [_drawn_size(each.image, _LONG[len(photographs) > 1]) for each in photographs]
    cell = max(_SHORT, *(width for width, _ in sizes))
    blocks: List[Tuple[str, Dict[str, List[Tensor]]]] = [('image', {'': [each.image for each in photographs]})]
    for network, layers in attention.items():
        blocks.append((network, {layer: [photograph.overlay(each.detach().cpu())
                                         for photograph, each in zip(photographs, maps)]
                                 for layer, maps in layers.items()}))
    # Of the columns, or of the network's name.
    spans = [max(len(layers) * (cell + _GAP) - _GAP, _CHARACTER * max(map(len, network.split('\n'))))
             for network, layers in blocks]
    lines = max(network.count('\n') for network, _ in blocks)
    top = _LINE * (lines + 3)
    width = _MARGIN + sum(spans) + _NETWORK_GAP * len(attention) + _GAP
    height = top + sum(height + _GAP for _, height in sizes) + 2 * _LINE
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    start = _MARGIN
    for (network, layers), span in zip(blocks, spans):
        above = top - _LINE * (1.2 if any(layers) else 0.3)
        left = start + (span - len(layers) * (cell + _GAP) + _GAP) // 2
        figure.text((start + span / 2) / width, 1 - above / height, network, ha='center', va='bottom', fontsize=8.5,
                    fontweight='bold')
        for layer, pictures in layers.items():
            y = top
            for row, (picture, (drawn_width, drawn_height)) in enumerate(zip(pictures, sizes)):
                x = left + (cell - drawn_width) // 2
                axes = figure.add_axes((x / width, 1 - (y + drawn_height) / height, drawn_width / width,
                                        drawn_height / height))
                axes.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy(), aspect='auto',
                            interpolation='nearest' if drawn_width >= picture.shape[-1] else 'antialiased')
                axes.set_xticks([])
                axes.set_yticks([])
                for spine in axes.spines.values():
                    spine.set_visible(False)
                if row == 0 and layer:
                    axes.set_title(layer, fontsize=7, pad=2)
                if network == 'image' and not layer and row < len(titles):
                    axes.set_ylabel(titles[row], fontsize=8)
                y += drawn_height + _GAP
            left += cell + _GAP
        start += span + _NETWORK_GAP
    if caption:
        figure.text(0.5, 0.3 * _LINE / height, caption, ha='center', fontsize=7, color='0.35')
    return figure
