"""What datasets of image files have in common: are they all there, and can each be read."""
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Sequence

from mmcv.transforms import LoadImageFromFile

from mmat.registry import TRANSFORMS


def check_count(found: int, official: int, what: str) -> None:
    """Refuse lists that were cut short, or are another dataset's.

    Args:
        found (int): Images listed.
        official (int): Images that there should be.
        what (str): How the message calls what lists them.

    Raises:
        ValueError: They differ.
    """
    if found != official:
        raise ValueError(f'{what} names {found:,} images, where officially there are {official:,}: download it again. '
                         'If it is a part of the dataset on purpose, give complete=False')


def check_files(folder: str, names: Sequence[str], what: str) -> None:
    """Refuse a folder that lacks images.

    Args:
        folder (str): Where they should be.
        names (Sequence[str]): Paths in it.
        what (str): How the message calls what names them.

    Raises:
        FileNotFoundError: Some are not there; the message counts them and names the first.
    """
    missing = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        first = Path(folder) / missing[0]
        there = [entry.name for entry in first.parent.iterdir()] if first.parent.is_dir() else []
        close = get_close_matches(first.name, there, n=1)
        raise FileNotFoundError(f'{len(missing):,} of the {len(names):,} images that {what} names are not in '
                                f'{str(folder)!r}: the first is {missing[0]}' +
                                (f'; the closest there is {close[0]}' if close else ''))


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile for images of any kind: grey, palette, CMYK, with transparency, a PNG or GIF named .jpg.

    Decoded by Pillow, by what the file holds: OpenCV 4.11 reads no GIF, and 4.10 gives half an image for half a file.

    Required keys: ``img_path``. Added keys: ``img``, uint8 of shape (H, W, 3), BGR as mmcv has it; ``img_shape``;
    ``ori_shape``.

    Raises:
        FileNotFoundError: At run time: the file is not there.
        ValueError: At run time: it cannot be decoded; the message names it.
    """

    def __init__(self):
        super().__init__(imdecode_backend='pillow')

    def transform(self, results: dict) -> dict:
        try:
            return super().transform(results)
        except FileNotFoundError:
            raise
        except Exception as error:  # a broken file raises whatever its bytes lead to
            raise ValueError(f'{results["img_path"]} cannot be read as an image: it is truncated or something else '
                             f'({error})') from error
