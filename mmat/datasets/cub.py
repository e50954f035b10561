"""CUB-200-2011 (Wah et al., 2011) with its bounding boxes."""
import math
from pathlib import Path
from typing import List

from mmcv.transforms import BaseTransform
from mmpretrain.datasets import CUB as MMPretrainCUB

from mmat.registry import DATASETS, TRANSFORMS

from .image_files import check_count, check_files

_FILES = ('images.txt', 'image_class_labels.txt', 'train_test_split.txt', 'bounding_boxes.txt')
_SIZES = dict(train=5994, test=5794)


@DATASETS.register_module()
class CUB(MMPretrainCUB):
    """mmpretrain's CUB-200-2011, each image with its ``bbox``, ``[x, y, width, height]`` in pixels.

    Reads the official layout: ``images/``, ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt`` and
    ``bounding_boxes.txt`` in ``data_root``. :class:`CropBoundingBox` cuts the box out. Some images are grey.

    Args:
        data_root (str): The folder ``CUB_200_2011``.
        split (str): 'train' or 'test'. Defaults to 'train'.
        complete (bool): Whether the split must have its official number of images, 5,994 or 5,794; False for a part
            of the dataset. Defaults to True.
        **kwargs: As mmpretrain's.

    Raises:
        FileNotFoundError: One of these files, or an image of the split, is not there.
        ValueError: A line that is not what it should be, files that disagree on the images, an image whose class is
            not its folder's, another number of images than there should be, or another split.
    """

    def __init__(self, data_root: str, split: str = 'train', complete: bool = True, **kwargs):
        if split not in ('train', 'test'):
            raise ValueError(f"split of CUB must be 'train' or 'test', got {split!r}")
        missing = [name for name in _FILES if not (Path(data_root) / name).is_file()]
        if missing:
            raise FileNotFoundError(f'CUB-200-2011 is not in {str(data_root)!r}: {", ".join(missing)} not found. '
                                    'Unpack CUB_200_2011.tgz (https://www.vision.caltech.edu/datasets/cub_200_2011/) '
                                    'and name its folder CUB_200_2011 as data_root')
        self.complete = complete
        super().__init__(data_root=str(data_root), split=split, test_mode=split == 'test', **kwargs)

    def load_data_list(self) -> List[dict]:
        """Images, labels and boxes of the split."""
        names, labels, splits, boxes = (self._read(name) for name in _FILES)
        for file, content in zip(_FILES[1:], (labels, splits, boxes)):
            odd = sorted(names.keys() ^ content.keys())
            if odd:
                raise ValueError(f'{file} and {_FILES[0]} of {self.data_root!r} disagree on {len(odd)} images; the '
                                 f'first is number {odd[0]}')
        data_list, files = [], []
        for number, (name, *others) in names.items():
            if others:
                raise ValueError(f'{_FILES[0]} of {self.data_root!r}: image {number} must be one file, got '
                                 f'{" ".join((name, *others))!r}')
            is_train, = self._numbers(_FILES[2], number, splits[number], 1, int)
            if is_train not in (0, 1):
                raise ValueError(f'{_FILES[2]} of {self.data_root!r}: image {number} must be 1 (train) or 0 (test), '
                                 f'got {is_train}')
            if is_train == (self.split == 'train'):
                label, = self._numbers(_FILES[1], number, labels[number], 1, int)
                if not 1 <= label <= len(self.METAINFO['classes']):
                    raise ValueError(f'{_FILES[1]} of {self.data_root!r}: image {number} has class {label}, expected 1 '
                                     f'to {len(self.METAINFO["classes"])}')
                if not name.startswith(f'{label:03d}.'):
                    raise ValueError(f'{_FILES[1]} of {self.data_root!r}: image {number} has class {label}, but is in '
                                     f'the folder {name.split("/")[0]!r}')
                files.append(name)
                data_list.append(dict(
                    img_path=self.backend.join_path(self.img_prefix, name), gt_label=label - 1,
                    bbox=self._numbers(_FILES[3], number, boxes[number], 4, float)))
        what = f'{_FILES[0]} of {self.data_root!r}'
        if self.complete:
            check_count(len(files), _SIZES[self.split], f'the {self.split} split in {what}')
        check_files(self.img_prefix, files, what)
        return data_list

    def _read(self, name: str) -> dict:
        """Image number -> the words of its line."""
        lines = (Path(self.data_root) / name).read_text().splitlines()
        content = {}
        for index, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            number, *words = line.split()
            if not number.isdigit() or not words:
                raise ValueError(f'{name} of {self.data_root!r}, line {index}: expected an image number and its entry, '
                                 f'got {line!r}')
            if int(number) in content:
                raise ValueError(f'{name} of {self.data_root!r}, line {index}: image {int(number)} is there a second '
                                 'time')
            content[int(number)] = words
        return content

    def _numbers(self, name: str, number: int, words: List[str], count: int, kind: type) -> list:
        try:
            values = [kind(word) for word in words]
        except ValueError:
            values = []
        if len(values) != count or not all(math.isfinite(value) for value in values):
            raise ValueError(f'{name} of {self.data_root!r}: image {number} must have {count} numbers, got '
                             f'{" ".join(words)!r}')
        return values


@TRANSFORMS.register_module()
class CropBoundingBox(BaseTransform):
    """Cuts the bounding box out of an image.

    Required keys: ``img``, shape (H, W, C), and ``bbox``, ``[x, y, width, height]`` in pixels. Modified keys: ``img``,
    ``img_shape``. Of a box that reaches out of the image the part inside is taken.

    Args:
        margin (float): Context on every side, as a share of the box's width and height. Defaults to 0.

    Raises:
        ValueError: A negative margin; at run time, an image without a box, or a box with nothing of the image inside.
    """

    def __init__(self, margin: float = 0.):
        if margin < 0:
            raise ValueError(f'margin of CropBoundingBox must be at least 0, got {margin}')
        self.margin = margin

    def transform(self, results: dict) -> dict:
        if 'bbox' not in results:
            raise ValueError('CropBoundingBox needs images with a bbox, such as those of mmat.CUB; this one has none: '
                             f'{results.get("img_path")}')
        x, y, width, height = results['bbox']
        rows, columns = results['img'].shape[:2]
        left, right = (round(x + side * width) for side in (-self.margin, 1 + self.margin))
        top, bottom = (round(y + side * height) for side in (-self.margin, 1 + self.margin))
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, columns), min(bottom, rows)
        if left >= right or top >= bottom:
            raise ValueError(f'the box {results["bbox"]} of {results.get("img_path")} has nothing of its image inside, '
                             f'which is {columns} x {rows} pixels')
        results['img'] = results['img'][top:bottom, left:right]
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(margin={self.margin})'
