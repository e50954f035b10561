"""Checks and image loading for datasets of image files."""
import os
from pathlib import Path
from typing import Sequence

from mmcv.transforms import LoadImageFromFile

from mmat.errors import DataError, MissingFileError, did_you_mean
from mmat.registry import TRANSFORMS

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


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """Load an image of any kind: grey, palette, CMYK, with transparency, a PNG or GIF named .jpg.

    mmcv's LoadImageFromFile with Pillow, which detects the format from the content. OpenCV 4.11 reads no GIF, and 4.10
    returns half an image for a truncated file.

    Required keys: ``img_path``. Added keys: ``img``, uint8 BGR of shape (H, W, 3); ``img_shape``; ``ori_shape``.

    Raises:
        MissingFileError: At run time, the file does not exist.
        DataError: At run time, the file cannot be decoded.
    """

    def __init__(self):
        super().__init__(imdecode_backend='pillow')

    def transform(self, results: dict) -> dict:
        path = results['img_path']
        try:
            return super().transform(results)
        except FileNotFoundError as error:
            raise MissingFileError(f'No image {path!r}. {DATA_ROOT_HELP}') from error
        except Exception as error:  # damaged bytes can raise any exception while they are decoded
            raise DataError(f'Cannot read image {path!r}: the file is truncated or not an image ({error}).') from error
