"""scikit-learn's handwritten digits, the embedded default."""
from typing import Optional

import torch
import torch.nn.functional as F

from mmat.registry import DATASETS

from .in_memory import InMemoryDataset

_SIZE = 16


@DATASETS.register_module()
class Digits(InMemoryDataset):
    """1,797 real handwritten digits of 8x8 pixels that come with scikit-learn: no download.

    Enlarged bilinearly and given as three equal channels. The split is stratified and fixed: the first ``train_size``
    images of a shuffled order with equal classes are for training, the last 797 for testing; those between are not
    used.

    Args:
        split (str): 'train' or 'test'.
        train_size (int): Training images, at most 1000. Defaults to 1000.
        size (int): Height and width in pixels, at least 8. Defaults to 16.
        indices (int | Sequence[int], optional): See :class:`InMemoryDataset`.

    Raises:
        ValueError: An option outside these.
        ImportError: scikit-learn is not installed.
    """

    METAINFO = dict(classes=tuple('0123456789'))
    TEST_SIZE = 797
    grayscale = True

    def __init__(self, split: str, train_size: int = 1000, size: int = _SIZE, indices: Optional[object] = None):
        if split not in ('train', 'test'):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        if not 0 < train_size <= 1000:
            raise ValueError(f'train_size must be between 1 and 1000, got {train_size}')
        if size < 8:
            raise ValueError(f'size must be at least 8 pixels, got {size}')
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError('the digits dataset comes with scikit-learn: pip install scikit-learn') from error
        digits = load_digits()
        labels = torch.from_numpy(digits.target).long()
        order = _class_by_class(labels)
        chosen = order[:train_size] if split == 'train' else order[-self.TEST_SIZE:]
        images = torch.from_numpy(digits.images).float()[chosen, None] * (255 / 16)
        images = F.interpolate(images, (size, size), mode='bilinear', align_corners=False)
        images = images.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
        super().__init__(images, labels[chosen], self.METAINFO['classes'], indices)

    @classmethod
    def image_size(cls, size: int = _SIZE, **options) -> int:
        return size


def _class_by_class(labels: torch.Tensor) -> torch.Tensor:
    """A fixed shuffle in which the classes take turns, so that any head of it is balanced."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    turn = torch.empty_like(labels)
    for label in labels.unique():
        of_class = shuffled[labels[shuffled] == label]
        turn[of_class] = torch.arange(len(of_class))
    return shuffled[torch.argsort(turn[shuffled], stable=True)]
