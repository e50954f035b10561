"""Photographs, and the part of each that a network sees."""
import copy
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mmat.attention import overlay_attention
from mmat.utils.rng import preserve_rng_state

# Longest side in pixels of a photograph that is kept to be drawn.
MAX_SIDE = 640

Box = Tuple[float, float, float, float]


@dataclass
class Photograph:
    """An image to draw attention maps on.

    Attributes:
        image (Tensor): RGB in [0, 1], shape (3, H, W).
        box (tuple): Left, top, right and bottom edge of the network's input, in pixels of the image. It exceeds the
            image where the input is padded. Left and right are swapped if the input is mirrored.
    """
    image: Tensor
    box: Box

    @classmethod
    def whole(cls, image: Tensor) -> 'Photograph':
        """An image that the network sees as a whole."""
        return cls(image, (0, 0, image.shape[-1], image.shape[-2]))

    def overlay(self, attention: Tensor) -> Tensor:
        """Lay a map, shape (h, w), over the network's input; the rest of the image is unchanged."""
        left, top, right, bottom = (round(edge) for edge in self.box)
        if left > right:
            left, right, attention = right, left, attention.flip(1)
        if top > bottom:
            top, bottom, attention = bottom, top, attention.flip(0)
        height, width = self.image.shape[-2:]
        rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
        seen = self.image.new_zeros(3, max(bottom - top, 1), max(right - left, 1))
        inside = (..., slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        seen[inside] = self.image[:, rows, columns]
        result = self.image.float().clone()
        result[:, rows, columns] = overlay_attention(attention[None].to(seen.device), seen[None])[0][inside]
        return result


def take_photograph(image: np.ndarray, prepare: Callable[[np.ndarray], Optional[Tensor]],
                    is_bgr: bool = False) -> Optional[Photograph]:
    """Find the part of an image that a pipeline passes to the network. Random states are restored.

    Args:
        image (np.ndarray): Shape (H, W), (H, W, 1) or (H, W, 3), uint8. It is not changed.
        prepare (Callable): The pipeline, from such an array to the network's input, shape (C, h, w). It may resize,
            crop, mirror and pad.
        is_bgr (bool): Whether the image is BGR. Defaults to False, RGB.

    Returns:
        Photograph | None: The image, at most 640 pixels long. None if the pipeline does something else, such as a
        rotation.
    """
    box = _find_box(image.shape, prepare) if image.dtype == np.uint8 else None
    if box is None:
        return None
    height, width = image.shape[:2]
    channels = image.reshape(height, width, -1)
    channels = np.broadcast_to(channels[..., ::-1] if is_bgr else channels, (height, width, 3))
    picture = Image.fromarray(np.ascontiguousarray(channels))
    scale = min(1, MAX_SIDE / max(height, width))
    if scale < 1:
        picture = picture.resize((max(1, round(scale * width)), max(1, round(scale * height))),
                                 Image.Resampling.BILINEAR)
    scales = (picture.width / width, picture.height / height) * 2
    return Photograph(torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255,
                      tuple(edge * each for edge, each in zip(box, scales)))


def _find_box(shape: Sequence[int], prepare: Callable[[np.ndarray], Optional[Tensor]]) -> Optional[Box]:
    """Pass pictures of the coordinates through the pipeline, and read the source of each pixel from its result.

    A black and a white picture show how the pipeline changes values, and which pixels it adds.
    """

    def run(picture: np.ndarray) -> Optional[np.ndarray]:
        picture = np.rint(picture).astype(np.uint8)
        with preserve_rng_state():
            prepared = prepare(np.broadcast_to(picture.reshape(picture.shape + (1, ) * (len(shape) - 2)), shape).copy())
        return prepared.float().mean(0).numpy() if isinstance(prepared, Tensor) and prepared.dim() == 3 else None

    rows, columns = (np.linspace(0, 255, size) for size in shape[:2])
    zeros = np.zeros(shape[:2])
    low, high = run(zeros), run(zeros + 255)
    edges = []
    for ramp, size, axis in ((zeros + columns, shape[1], 1), (zeros + rows[:, None], shape[0], 0)):
        if low is None or high is None or low.shape != high.shape:
            return None
        found = run(ramp)
        values = (found - low) / np.where(high == low, np.nan, high - low)
        # Interpolation repeats the values at the rim.
        used = (values > 0) & (values < 1)
        places = np.indices(values.shape)[axis][used] + 0.5
        if size < 2 or len(np.unique(places)) < 2:
            return None
        sources = values[used] * (size - 1) + 0.5
        slope, offset = np.polyfit(places, sources, 1)
        if np.abs(slope * places + offset - sources).mean() > max(1, 0.01 * size):
            return None
        edges.append([_snap(end, size) for end in (offset, slope * values.shape[axis] + offset)])
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _snap(edge: float, size: int) -> float:
    """Move an edge to the rim of the image if it differs by less than one of the ramp's 256 steps."""
    for rim in (0, size):
        if abs(edge - rim) < max(0.5, size / 255):
            return rim
    return edge


def photograph_of(dataset: Dataset, index: int, is_bgr: bool) -> Optional[Photograph]:
    """Return an image of a dataset before the steps of its pipeline. Random states are restored.

    Args:
        dataset (Dataset): Its items are not read.
        index (int): Position in the dataset.
        is_bgr (bool): Whether the dataset loads BGR.

    Returns:
        Photograph | None: See :func:`take_photograph`. None if the dataset has no pipeline of steps.
    """
    if not hasattr(dataset, 'get_data_info') or not hasattr(getattr(dataset, 'pipeline', None), 'transforms'):
        return None
    with preserve_rng_state():
        data, steps = dataset.get_data_info(index), list(dataset.pipeline.transforms)
        while 'img' not in data and steps:
            data = steps.pop(0)(data)
        if not isinstance(data.get('img'), np.ndarray):
            return None

        def prepare(image: np.ndarray) -> Optional[Tensor]:
            item = dict(copy.deepcopy(data), img=image)
            for step in steps:
                item = step(item)
                if item is None:
                    return None
            return item['inputs']

        return take_photograph(data['img'], prepare, is_bgr)


def with_photographs(images: Tensor, photographs: Sequence[Optional[Photograph]]) -> List[Photograph]:
    """Replace missing photographs by the network's inputs, RGB in [0, 1], shape (N, 3, H, W)."""
    photographs = photographs or [None] * len(images)
    return [photograph or Photograph.whole(image) for photograph, image in zip(photographs, images)]
