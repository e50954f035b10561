"""MIT Indoor-67 (Quattoni & Torralba, CVPR 2009): "Scenes" of the attention transfer paper."""
from difflib import get_close_matches
from pathlib import Path
from typing import List

from mmpretrain.datasets import BaseDataset

from mmat.registry import DATASETS

from .image_files import check_count, check_files

_LISTS = dict(train='TrainImages.txt', test='TestImages.txt')
_SIZES = dict(train=5360, test=1340)

# The folders as they are named, misspelt or not, sorted: a label is a place in this list.
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
    """MIT Indoor-67: 5,360 training and 1,340 test images of 67 kinds of rooms, by the official lists.

    Reads the official layout: ``Images/<class>/<file>.jpg``, ``TrainImages.txt`` and ``TestImages.txt`` in
    ``data_root``. About 80 and 20 images a class: the official lists have 77 to 83 and 17 to 23, so it is their total
    that is checked. Images in no list, more than half of the archive, are not used. Some files are not RGB, or not
    JPEG: load them with :class:`LoadImage`.

    Args:
        data_root (str): The folder that holds the three.
        split (str): 'train' or 'test'. Defaults to 'train'.
        complete (bool): Whether the list must have its official number of images; False for a part of the dataset.
            Defaults to True.
        **kwargs: As mmpretrain's BaseDataset, such as ``pipeline`` and ``indices``.

    Raises:
        FileNotFoundError: The list, the folder, or an image that is listed is not there.
        ValueError: A line that is not what it should be, a class that is not one of the 67, an image listed twice,
            another number of images than there should be, or another split.
    """

    METAINFO = dict(classes=INDOOR67_CLASSES)

    def __init__(self, data_root: str, split: str = 'train', complete: bool = True, **kwargs):
        if split not in _LISTS:
            raise ValueError(f"split of IndoorScenes67 must be 'train' or 'test', got {split!r}")
        root = Path(data_root)
        missing = [name for name, there in ((_LISTS[split], (root / _LISTS[split]).is_file()),
                                            ('Images/', (root / 'Images').is_dir())) if not there]
        if missing:
            raise FileNotFoundError(f'MIT Indoor-67 is not in {str(data_root)!r}: {", ".join(missing)} not found. '
                                    'Unpack indoorCVPR_09.tar (https://web.mit.edu/torralba/www/indoor.html) in it, '
                                    f'and put {_LISTS["train"]} and {_LISTS["test"]} from that page beside Images/')
        self.split = split
        self.complete = complete
        super().__init__(ann_file=_LISTS[split], data_root=str(data_root), data_prefix='Images',
                         test_mode=split == 'test', **kwargs)

    def load_data_list(self) -> List[dict]:
        """Images and labels of the split."""
        what = f'{_LISTS[self.split]} of {self.data_root!r}'
        labels = {name: label for label, name in enumerate(INDOOR67_CLASSES)}
        listed = {}
        lines = Path(self.ann_file).read_text(encoding='utf-8', errors='replace').splitlines()
        for number, line in enumerate(lines, start=1):
            # Names may have spaces inside.
            name = line.strip()
            if not name:
                continue
            folder, _, file = name.partition('/')
            if not folder or not file:
                raise ValueError(f'{what}, line {number}: expected class/file.jpg, got {name!r}')
            if folder not in labels:
                close = get_close_matches(folder, labels, n=3, cutoff=0.4)
                raise ValueError(f'{what}, line {number}: {folder!r} is not one of the 67 classes' +
                                 (f'; the closest are {", ".join(close)}' if close else ''))
            if name in listed:
                raise ValueError(f'{what}, line {number}: {name!r} is listed a second time')
            listed[name] = labels[folder]
        if self.complete:
            check_count(len(listed), _SIZES[self.split], what)
        check_files(self.img_prefix, list(listed), what)
        return [dict(img_path=f'{self.img_prefix}/{name}', gt_label=label) for name, label in listed.items()]
