"""CUB-200-2011 (Wah et al., 2011) with its bounding boxes."""
import math
from pathlib import Path
from typing import List

from mmcv.transforms import BaseTransform
from mmpretrain.datasets import CUB as MMPretrainCUB

from mmat.errors import ConfigError, DataError, MissingFileError
from mmat.registry import DATASETS, TRANSFORMS

from .image_files import DATA_ROOT_HELP, check_count, check_files

_FILES = ('images.txt', 'image_class_labels.txt', 'train_test_split.txt', 'bounding_boxes.txt')
_SIZES = dict(train=5994, test=5794)


@DATASETS.register_module()
class CUB(MMPretrainCUB):
    """mmpretrain's CUB-200-2011 with a ``bbox`` for each image, ``[x, y, width, height]`` in pixels.

    Reads the official layout: ``images/``, ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt`` and
    ``bounding_boxes.txt`` in ``data_root``. Crop the box with :class:`CropBoundingBox`. Some images are grey.

    Args:
        data_root (str): The folder ``CUB_200_2011``.
        split (str): 'train' or 'test'. Defaults to 'train'.
        complete (bool): Require the official number of images, 5,994 or 5,794. Set False for a part of the dataset.
            Defaults to True.
        **kwargs: Arguments of mmpretrain's CUB.

    Raises:
        MissingFileError: One of these files or an image of the split does not exist.
        DataError: A line is malformed, the files list different images, a class differs from the image's folder, or the
            number of images is not the official one.
        ConfigError: ``split`` is unknown.
    """

    def __init__(self, data_root: str, split: str = 'train', complete: bool = True, **kwargs):
        if split not in ('train', 'test'):
            raise ConfigError(f"CUB: `split` must be 'train' or 'test', got {split!r}.")
        missing = [name for name in _FILES if not (Path(data_root) / name).is_file()]
        if missing:
            raise MissingFileError(f'CUB-200-2011 is not in {str(data_root)!r}: {", ".join(missing)} not found. Unpack '
                                   'CUB_200_2011.tgz from https://www.vision.caltech.edu/datasets/cub_200_2011/. '
                                   f'{DATA_ROOT_HELP}')
        self.complete = complete
        super().__init__(data_root=str(data_root), split=split, test_mode=split == 'test', **kwargs)

    def load_data_list(self) -> List[dict]:
        """Load paths, labels and boxes of the split's images."""
        names, labels, splits, boxes = (self._read(name) for name in _FILES)
        for file, content in zip(_FILES[1:], (labels, splits, boxes)):
            unmatched = sorted(names.keys() ^ content.keys())
            if unmatched:
                raise self._error(file, f'{len(unmatched)} images are only in this file or only in {_FILES[0]}. The '
                                        f'first is image {unmatched[0]}.')
        data_list, files = [], []
        for number, (name, *others) in names.items():
            if others:
                raise self._error(_FILES[0], f'image {number} must have one path without spaces, got '
                                             f'{" ".join((name, *others))!r}.')
            is_train, = self._numbers(_FILES[2], number, splits[number], 1, int)
            if is_train not in (0, 1):
                raise self._error(_FILES[2], f'image {number} must be 1 (train) or 0 (test), got {is_train}.')
            if is_train == (self.split == 'train'):
                label, = self._numbers(_FILES[1], number, labels[number], 1, int)
                if not 1 <= label <= len(self.METAINFO['classes']):
                    raise self._error(_FILES[1], f'image {number} has class {label}, expected 1 to '
                                                 f'{len(self.METAINFO["classes"])}.')
                if not name.startswith(f'{label:03d}.'):
                    raise self._error(_FILES[1], f'image {number} has class {label}, but is in the folder '
                                                 f'{name.split("/")[0]!r}.')
                files.append(name)
                data_list.append(dict(
                    img_path=self.backend.join_path(self.img_prefix, name), gt_label=label - 1,
                    bbox=self._numbers(_FILES[3], number, boxes[number], 4, float)))
        source = repr(str(Path(self.data_root) / _FILES[0]))
        if self.complete:
            check_count(len(files), _SIZES[self.split], f'The {self.split} split in {source}')
        check_files(self.img_prefix, files, source)
        return data_list

    def _error(self, name: str, message: str, line: int = 0) -> DataError:
        return DataError(f'{str(Path(self.data_root) / name)!r}{f", line {line}" if line else ""}: {message}')

    def _read(self, name: str) -> dict:
        """Read a file as a dict from image number to the other words of its line."""
        lines = (Path(self.data_root) / name).read_text(encoding='utf-8', errors='replace').splitlines()
        content = {}
        for index, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            number, *words = line.split()
            if not number.isdigit() or not words:
                raise self._error(name, f'expected an image number and its entry, got {line!r}.', index)
            if int(number) in content:
                raise self._error(name, f'image {int(number)} is listed a second time.', index)
            content[int(number)] = words
        return content

    def _numbers(self, name: str, number: int, words: List[str], count: int, kind: type) -> list:
        try:
            values = [kind(word) for word in words]
        except ValueError:
            values = []
        if len(values) != count or not all(math.isfinite(value) for value in values):
            raise self._error(name, f'image {number} must have {count} number{"s" * (count > 1)}, got '
                                    f'{" ".join(words)!r}.')
        return values


@TRANSFORMS.register_module()
class CropBoundingBox(BaseTransform):
    """Crop an image to its bounding box.

    Required keys: ``img``, shape (H, W, C), and ``bbox``, ``[x, y, width, height]`` in pixels. Modified keys: ``img``,
    ``img_shape``. A box that extends beyond the image is clipped.

    Args:
        margin (float): Context added on every side, relative to the box's width and height. Defaults to 0.

    Raises:
        ConfigError: ``margin`` is negative.
        DataError: At run time, an image has no box, or its box covers no pixel of it.
    """

    def __init__(self, margin: float = 0.):
        if margin < 0:
            raise ConfigError(f'CropBoundingBox: `margin` must be at least 0, got {margin}.')
        self.margin = margin

    def transform(self, results: dict) -> dict:
        if 'bbox' not in results:
            raise DataError(f'CropBoundingBox needs images with a `bbox`, which {results.get("img_path")!r} lacks. Use '
                            'it with mmat.CUB or another dataset of boxes.')
        x, y, width, height = results['bbox']
        rows, columns = results['img'].shape[:2]
        left, right = (round(x + side * width) for side in (-self.margin, 1 + self.margin))
        top, bottom = (round(y + side * height) for side in (-self.margin, 1 + self.margin))
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, columns), min(bottom, rows)
        if left >= right or top >= bottom:
            raise DataError(f'The box {results["bbox"]} of {results.get("img_path")!r} covers no pixel of the '
                            f'image, which has {columns} x {rows} pixels.')
        results['img'] = results['img'][top:bottom, left:right]
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(margin={self.margin})'
