"""Checks and image loading for datasets of image files."""
import io
import os
from http.client import HTTPException
from pathlib import Path
from typing import Sequence

import numpy as np
from mmcv.image import rgb2bgr
from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL import Image, ImageOps, UnidentifiedImageError

from mmat.errors import DataError, FileError, MissingFileError, UserError, did_you_mean
from mmat.registry import TRANSFORMS

# Pillow's other formats run programs (EPS) or are not photographs. AVIF needs Pillow 11.3.
_FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'WEBP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF')
# Modes that Pillow cannot convert to RGB, or only with a warning, and a mode to convert them to first.
_VIA = {'P': 'RGBA', 'PA': 'RGBA', 'La': 'LA', 'RGBa': 'RGBA'}

# The last sentence of messages about data that is not found.
DATA_ROOT_HELP = ('Set its folder with --cfg-options train_dataloader.dataset.data_root=PATH, likewise val_dataloader '
                  'and test_dataloader.')


def check_count(found: int, official: int, source: str) -> None:
    """Check that a list of images is complete.

    Args:
        found (int): Number of images listed.
        official (int): Number of images in the official dataset.
        source (str): Name of the list, for the message.

    Raises:
        DataError: The numbers differ.
    """
    if found != official:
        raise DataError(f'{source} lists {found:,} images, the official dataset has {official:,}. Download it again, '
                        'or set complete=False to use a part of the dataset.')


def check_files(folder: str, names: Sequence[str], source: str) -> None:
    """Check that a folder holds all listed images.

    Args:
        folder (str): Folder of the images.
        names (Sequence[str]): Paths relative to it.
        source (str): Name of the list, for the message.

    Raises:
        MissingFileError: Images are missing. The message counts them and names the first.
    """
    missing = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        first = Path(folder) / missing[0]
        siblings = [entry.name for entry in first.parent.iterdir()] if first.parent.is_dir() else []
        raise MissingFileError(f'{str(folder)!r} lacks {len(missing):,} of the {len(names):,} images listed in '
                               f'{source}. The first is {missing[0]!r}.'
                               f'{did_you_mean(first.name, siblings, n=1, cutoff=0.6)}')


def load_image(source: str) -> np.ndarray:
    """Read an image file with Pillow, which detects the format from the content. Training and inference share it.

    Args:
        source (str): A path, or a URL of any of mmengine's file backends.

    Returns:
        ndarray: See ``to_bgr``. An animation or a file of several pages gives its first image.

    Raises:
        MissingFileError: The file does not exist.
        FileError: The file or URL cannot be read.
        DataError: The file is empty, truncated, not an image, or has pixels without a known range.
    """
    try:
        content = fileio.get(source.removeprefix('file://'))
    except FileNotFoundError as error:
        raise MissingFileError(f'No image {source!r}.') from error
    except (OSError, ImportError, KeyError, ValueError, HTTPException) as error:
        reason = 'no file backend for this scheme' if isinstance(error, KeyError) else error
        raise FileError(f'Cannot read image {source!r}: {reason}.') from error
    if not content:
        raise DataError(f'Cannot read image {source!r}: the file is empty.')
    Image.init()
    formats = [each for each in _FORMATS if each in Image.OPEN]
    try:
        image = Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise DataError(f'Cannot read image {source!r}: the file is not an image ({", ".join(formats)}).') from error
    except Exception as error:  # damaged bytes can raise any exception while they are parsed
        raise _damaged(f'image {source!r}', error) from error
    if image.format == 'JPEG2000' and image.mode != 'I;16':
        # The depth of the first channel, in the header of the code stream. Pillow turns white into black at 16 bits.
        depth = (content[content.find(b'\xff\x4f\xff\x51') + 42] & 0x7F) + 1
        if depth > 8:
            raise DataError(f'Cannot read image {source!r}: JPEG 2000 in color must have 8 bits, got {depth}. Convert '
                            'the image.')
    return to_bgr(image, f'image {source!r}')


def to_bgr(image: Image.Image, name: str = 'PIL image') -> np.ndarray:
    """Convert a PIL image to BGR and rotate it according to its EXIF orientation.

    Gray becomes three equal channels. Pixels of 16 bits keep their high byte, so 0 to 65535 becomes 0 to 255.
    Transparency is dropped: a transparent pixel keeps the color stored for it.

    Args:
        image (Image): Of any mode with 8 or 16 bits per channel.
        name (str): Name of the image, for messages. Defaults to 'PIL image'.

    Returns:
        ndarray: Shape (H, W, 3), uint8, BGR.

    Raises:
        DataError: The image is empty, damaged, or has floats or integers of 32 bits, whose range is unknown.
    """
    is_tiff = image.format == 'TIFF'
    try:
        image = ImageOps.exif_transpose(image)
        # Pillow reads some images of 16 bits as mode I: PGM, and PNG before version 11.
        low, high = image.getextrema() if image.mode == 'I' else (0, 0)
        if 0 in image.size or image.mode == 'F' or image.mode == 'I' and (is_tiff or low < 0 or high > 65535):
            raise DataError(f'Cannot use {name}: expected pixels of 8 or 16 bits, got mode {image.mode!r} and size '
                            f'{image.size}. Floats and integers of 32 bits have no known range: convert the image.')
        if image.mode.startswith('I'):
            # Pillow would clip at 255.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return rgb2bgr(np.asarray(image.convert(_VIA.get(image.mode, image.mode)).convert('RGB')))
    except UserError:
        raise
    except Exception as error:  # Pillow decodes here; damaged bytes can raise any exception
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(f'Cannot read {name}: it is truncated or damaged ({" ".join(str(error).split())}).')


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Load an image of any kind: gray, palette, CMYK, 16 bits, with transparency, a PNG or GIF named .jpg.

    :class:`mmat.apis.AttentionInferencer` reads images in the same way. Transparency is
    dropped.

    mmpretrain's LoadImageFromFile decodes with OpenCV. It gives the same pixels for JPEG, is faster, and depends on
    OpenCV's version for other kinds: 4.11 reads no GIF, and 4.10 returns half an image for a truncated file.

    Required keys: ``img_path``. Added keys: ``img``, uint8 BGR of shape (H, W, 3); ``img_shape``; ``ori_shape``.

    Raises:
        MissingFileError: At run time, the file does not exist.
        FileError: At run time, the file cannot be read.
        DataError: At run time, the file is empty, truncated, not an image, or has pixels without a known range.
    """

    def transform(self, results: dict) -> dict:
        try:
            image = load_image(results['img_path'])
        except MissingFileError as error:
            raise MissingFileError(f'{error} {DATA_ROOT_HELP}') from error
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results
