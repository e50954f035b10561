"""Pictures from wherever a user has them."""
import io
import os
from difflib import get_close_matches
from pathlib import Path
from typing import List, Sequence, Union
from urllib.parse import unquote, urlsplit

import numpy as np
from mmengine import fileio
from PIL import Image, ImageOps

Source = Union[str, os.PathLike, np.ndarray, Image.Image]

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
# What they hold. Others of Pillow's formats run programs (EPS), or hold no pictures of things.
_FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'WEBP', 'TIFF', 'PPM', 'JPEG2000')


def list_images(inputs: Union[Source, Sequence[Source]]) -> List[Source]:
    """One picture an entry: a folder becomes its pictures, sorted by name, those of its subfolders not among them.

    Args:
        inputs (str | PathLike | ndarray | Image | Sequence): A picture, see :func:`read_image`, a folder, or a list
            of these.

    Returns:
        list: Pictures that :func:`read_image` takes.

    Raises:
        FileNotFoundError: A path that is not there; the message names the nearest.
        ValueError: A folder without pictures, or nothing at all.
    """
    if not isinstance(inputs, (list, tuple)):
        inputs = [inputs]
    pictures = []
    for each in inputs:
        if isinstance(each, os.PathLike):
            each = os.fspath(each)
        if isinstance(each, str) and '://' not in each:
            pictures += _list_path(Path(each))
        else:
            pictures.append(each)
    if not pictures:
        raise ValueError('there is no picture to look at: the list is empty')
    return pictures


def _list_path(path: Path) -> List[str]:
    if path.is_dir():
        entries = sorted(path.iterdir())
        pictures = [str(entry) for entry in entries
                    if entry.suffix.lower() in SUFFIXES and not entry.name.startswith('.') and entry.is_file()]
        if not pictures:
            folders = [entry.name for entry in entries if entry.is_dir()]
            raise ValueError(f'the folder {str(path)!r} holds no picture ({", ".join(SUFFIXES)})' +
                             (f'; name one of its subfolders: {", ".join(folders[:5])}' if folders else ''))
        return pictures
    if not path.exists():
        if not path.parent.is_dir():
            raise FileNotFoundError(f'no picture {str(path)!r}: there is no folder {str(path.parent)!r}')
        close = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3, cutoff=0.4)
        raise FileNotFoundError(f'no picture {str(path)!r}' +
                                (f'; the closest in its folder are {", ".join(close)}' if close else ''))
    return [str(path)]


def read_image(source: Source) -> np.ndarray:
    """A picture as an array, whatever its kind: grey, with a palette or transparency (which is left out), 16 bits.

    Args:
        source (str | ndarray | Image): A path; a URL, or whatever else mmengine's file backends read; an array of
            shape (H, W, 3), uint8, **BGR** as ``mmcv.imread`` gives it; or a PIL image.

    Returns:
        ndarray: Shape (H, W, 3), uint8, BGR, upright where the file tells how the camera was held.

    Raises:
        ValueError: A file that is no picture, or an array of another kind.
        OSError: A file or URL that cannot be read.
        TypeError: Anything else.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or source.size == 0:
            raise ValueError('a picture as an array must be uint8 of shape (H, W, 3), BGR as mmcv.imread gives it, got '
                             f'{source.dtype} of shape {source.shape}')
        return np.ascontiguousarray(source)  # OpenCV takes no mirrored view, such as rgb[..., ::-1]
    if isinstance(source, Image.Image):
        return _as_bgr(source, 'a PIL picture')
    if not isinstance(source, str):
        raise TypeError('a picture is a path, a URL, an array (H, W, 3) or a PIL image, got '
                        f'{type(source).__name__}')
    try:
        content = fileio.get(source.removeprefix('file://'))
    except Exception as error:  # each file backend has its own
        raise OSError(f'the picture {source!r} cannot be read: {error}') from error
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
            picture = ImageOps.exif_transpose(file)
    except Exception as error:  # a broken file raises whatever its bytes lead to
        raise ValueError(f'{source!r} cannot be read as a picture: it is truncated or something else '
                         f'({type(error).__name__})') from error
    return _as_bgr(picture, repr(source))


def _as_bgr(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode == 'F' or 0 in picture.size:
        raise ValueError(f'{name} must have pixels of 8 or 16 bits, got mode {picture.mode!r} and size {picture.size}')
    if picture.mode.startswith('I'):
        # 16 bits, which Pillow would cut off at 255.
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    if picture.mode == 'P':
        picture = picture.convert('RGBA')  # Pillow warns where a palette with transparency goes to RGB at once
    return np.ascontiguousarray(np.asarray(picture.convert('RGB'))[..., ::-1])


def unique_stems(sources: Sequence[Source]) -> List[str]:
    """A name for what is drawn of each picture: its file's without suffix, or its number; numbered where not unique."""
    names, taken = [], set()
    for index, source in enumerate(sources):
        stem = str(index)
        if isinstance(source, str):
            stem = Path(unquote(urlsplit(source).path) if '://' in source else source).stem or stem
        name, count = stem, 1
        # As a file system sees it that does not tell capitals.
        while name.casefold() in taken:
            count += 1
            name = f'{stem}_{count}'
        taken.add(name.casefold())
        names.append(name)
    return names
