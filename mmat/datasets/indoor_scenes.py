"""MIT Indoor-67 (Quattoni & Torralba, CVPR 2009), the "Scenes" of the attention transfer paper."""
from pathlib import Path
from typing import List

from mmpretrain.datasets import BaseDataset

from mmat.errors import ConfigError, DataError, MissingFileError, did_you_mean
from mmat.registry import DATASETS

from .image_files import DATA_ROOT_HELP, check_count, check_files

_LISTS = dict(train='TrainImages.txt', test='TestImages.txt')
_SIZES = dict(train=5360, test=1340)

# The folder names in sorted order, with their original spelling. A label is an index into this list.
INDOOR67_CLASSES = (
    'airport_inside', 'artstudio', 'auditorium', 'bakery', 'bar', 'bathroom', 'bedroom', 'bookstore', 'bowling',
    'buffet', 'casino', 'children_room', 'church_inside', 'classroom', 'cloister', 'closet', 'clothingstore',
    'computerroom', 'concert_hall', 'corridor', 'deli', 'dentaloffice', 'dining_room', 'elevator',
    'fastfood_restaurant', 'florist', 'gameroom', 'garage', 'greenhouse', 'grocerystore', 'gym', 'hairsalon',
    'hospitalroom', 'inside_bus', 'inside_subway', 'jewelleryshop', 'kindergarden', 'kitchen', 'laboratorywet',
    'laundromat', 'library', 'livingroom', 'lobby', 'locker_room', 'mall', 'meeting_room', 'movietheater', 'museum',
    'nursery', 'office', 'operating_room', 'pantry', 'poolinside', 'prisoncell', 'restaurant', 'restaurant_kitchen',
    'shoeshop', 'stairscase', 'studiomusic', 'subway', 'toystore', 'trainstation', 'tv_studio', 'videostore',
    'waitingroom', 'warehouse', 'winecellar')


@DATASETS.register_module()
class IndoorScenes67(BaseDataset):
    """MIT Indoor-67: 5,360 training and 1,340 test images of 67 kinds of rooms.

    Reads the official layout: ``Images/<class>/<file>.jpg``, ``TrainImages.txt`` and ``TestImages.txt`` in
    ``data_root``. The official lists hold 77 to 83 training and 17 to 23 test images per class, so only the total is
    checked. More than half of the archive's images are in neither list and are not used. Some files are not RGB or not
    JPEG: load them with :class:`LoadImage`.

    Args:
        data_root (str): Folder that holds the lists and ``Images/``.
        split (str): 'train' or 'test'. Defaults to 'train'.
        complete (bool): Require the official number of images. Set False for a part of the dataset. Defaults to True.
        **kwargs: Arguments of mmpretrain's BaseDataset, such as ``pipeline`` and ``indices``.

    Raises:
        MissingFileError: The list, the folder or a listed image does not exist.
        DataError: A line is malformed, names an unknown class or repeats an image, or the number of images is not the
            official one.
        ConfigError: ``split`` is unknown.
    """

    METAINFO = dict(classes=INDOOR67_CLASSES)

    def __init__(self, data_root: str, split: str = 'train', complete: bool = True, **kwargs):
        if split not in _LISTS:
            raise ConfigError(f"IndoorScenes67: `split` must be 'train' or 'test', got {split!r}.")
        root = Path(data_root)
        missing = [name for name, exists in ((_LISTS[split], (root / _LISTS[split]).is_file()),
                                             ('Images/', (root / 'Images').is_dir())) if not exists]
        if missing:
            raise MissingFileError(f'MIT Indoor-67 is not in {str(data_root)!r}: {", ".join(missing)} not found. '
                                   'Unpack indoorCVPR_09.tar from https://web.mit.edu/torralba/www/indoor.html, and '
                                   f'put {_LISTS["train"]} and {_LISTS["test"]} from that page beside Images/. '
                                   f'{DATA_ROOT_HELP}')
        self.split = split
        self.complete = complete
        super().__init__(ann_file=_LISTS[split], data_root=str(data_root), data_prefix='Images',
                         test_mode=split == 'test', **kwargs)

    def load_data_list(self) -> List[dict]:
        """Load paths and labels of the split's images."""
        source = repr(str(self.ann_file))
        labels = {name: label for label, name in enumerate(INDOOR67_CLASSES)}
        listed = {}
        lines = Path(self.ann_file).read_text(encoding='utf-8', errors='replace').splitlines()
        for number, line in enumerate(lines, start=1):
            name = line.strip()  # may hold spaces
            if not name:
                continue
            folder, _, file = name.partition('/')
            if not folder or not file:
                raise DataError(f'{source}, line {number}: expected class/file.jpg, got {name!r}.')
            if folder not in labels:
                raise DataError(f'{source}, line {number}: {folder!r} is not one of the 67 classes.'
                                f'{did_you_mean(folder, labels)}')
            if name in listed:
                raise DataError(f'{source}, line {number}: {name!r} is listed a second time.')
            listed[name] = labels[folder]
        if self.complete:
            check_count(len(listed), _SIZES[self.split], source)
        check_files(self.img_prefix, list(listed), source)
        return [dict(img_path=f'{self.img_prefix}/{name}', gt_label=label) for name, label in listed.items()]
