"""Read images from files, folders, URLs, arrays and PIL images."""
import os
from pathlib import Path
from typing import Any, List, Sequence, Union
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from mmat.datasets.image_files import load_image, to_bgr
from mmat.errors import DataError, MissingFileError, did_you_mean

Source = Union[str, os.PathLike, np.ndarray, Image.Image]

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm')


def list_images(inputs: Union[Source, Sequence[Source]]) -> List[Source]:
    """Expand inputs into a list of single images. A folder becomes its images, sorted by name, without subfolders.

    Args:
        inputs (str | PathLike | ndarray | Image | Sequence): An image, see :func:`read_image`, a folder, or a list of
            these.

    Returns:
        list: Inputs of :func:`read_image`.

    Raises:
        MissingFileError: A path does not exist. The message suggests similar names.
        DataError: A folder holds no images, or the list is empty.
    """
    images: List[Source] = []
    sources: Sequence[Any] = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    for each in sources:
        if isinstance(each, os.PathLike):
            each = os.fspath(each)
        if isinstance(each, str) and '://' not in each:
            images += _list_path(Path(each))
        else:
            images.append(each)
    if not images:
        raise DataError('Expected at least one image, got an empty list.')
    return images


def _list_path(path: Path) -> List[str]:
    if path.is_dir():
        entries = sorted(path.iterdir())
        images = [str(entry) for entry in entries
                  if entry.suffix.lower() in SUFFIXES and not entry.name.startswith('.') and entry.is_file()]
        if not images:
            folders = [entry.name for entry in entries if entry.is_dir()]
            raise DataError(f'The folder {str(path)!r} holds no images ({", ".join(SUFFIXES)}).' +
                            (f' Give one of its subfolders: {", ".join(folders[:5])}.' if folders else ''))
        return images
    if not path.exists():
        if not path.parent.is_dir():
            raise MissingFileError(f'No image {str(path)!r}: the folder {str(path.parent)!r} does not exist.')
        names = [entry.name for entry in path.parent.iterdir()]
        raise MissingFileError(f'No image {str(path)!r}.{did_you_mean(path.name, names)}')
    return [str(path)]


def read_image(source: Source) -> np.ndarray:
    """Read an image as a BGR array, as :class:`mmat.datasets.LoadImage` does in training.

    Args:
        source (str | ndarray | Image): A path; a URL of any of mmengine's file backends; an array of shape (H, W, 3),
            uint8, **BGR** as returned by ``mmcv.imread``; or a PIL image.

    Returns:
        ndarray: Shape (H, W, 3), uint8, BGR. Files and PIL images are rotated according to their EXIF orientation.

    Raises:
        MissingFileError: The file does not exist.
        FileError: The file or URL cannot be read.
        DataError: The image is damaged or has pixels of 32 bits, or ``source`` has another type, shape or dtype.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or source.size == 0:
            raise DataError('An image array must be uint8 of shape (H, W, 3) in BGR order, got '
                            f'{source.dtype} of shape {source.shape}.')
        return np.ascontiguousarray(source)  # OpenCV refuses negative strides, such as of rgb[..., ::-1]
    if isinstance(source, Image.Image):
        return to_bgr(source)
    if not isinstance(source, str):
        raise DataError('An image must be a path, a URL, an array of shape (H, W, 3) or a PIL image, got '
                        f'{type(source).__name__}.')
    return load_image(source)


def unique_stems(sources: Sequence[Source]) -> List[str]:
    """Return a file name without suffix for each image: its own, or its index, with a number added to duplicates."""
    stems, taken = [], set()
    for index, source in enumerate(sources):
        base = str(index)
        if isinstance(source, str):
            base = Path(unquote(urlsplit(source).path) if '://' in source else source).stem or base
        stem, count = base, 1
        # Some file systems ignore case.
        while stem.casefold() in taken:
            count += 1
            stem = f'{base}_{count}'
        taken.add(stem.casefold())
        stems.append(stem)
    return stems
