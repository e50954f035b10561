"""scikit-learn's handwritten digits, a dataset that needs no download."""
from typing import Optional

import torch
import torch.nn.functional as F

from mmat.errors import ConfigError, MissingPackageError
from mmat.registry import DATASETS

from .in_memory import InMemoryDataset

_SIZE = 16


@DATASETS.register_module()
class Digits(InMemoryDataset):
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, in three equal channels.

    Images are enlarged bilinearly. The split is fixed and stratified: of a shuffled order with balanced classes, the
    first ``train_size`` images are for training and the last 797 for testing; the rest is unused.

    Args:
        split (str): 'train' or 'test'.
        train_size (int): Number of training images, at most 1000. Defaults to 1000.
        size (int): Height and width in pixels, at least 8. Defaults to 16.
        indices (int | Sequence[int], optional): See :class:`InMemoryDataset`.

    Raises:
        ConfigError: An option is out of range.
        MissingPackageError: scikit-learn is not installed.
    """

    METAINFO = dict(classes=tuple('0123456789'))
    TEST_SIZE = 797
    grayscale = True

    def __init__(self, split: str, train_size: int = 1000, size: int = _SIZE, indices: Optional[object] = None):
        if split not in ('train', 'test'):
            raise ConfigError(f"Digits: `split` must be 'train' or 'test', got {split!r}.")
        if not 0 < train_size <= 1000:
            raise ConfigError(f'Digits: `train_size` must be between 1 and 1000, got {train_size}.')
        if size < 8:
            raise ConfigError(f'Digits: `size` must be at least 8 pixels, got {size}.')
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise MissingPackageError('Digits needs scikit-learn. Install it with pip install scikit-learn.') from error
        digits = load_digits()
        labels = torch.from_numpy(digits.target).long()
        order = _balanced_order(labels)
        chosen = order[:train_size] if split == 'train' else order[-self.TEST_SIZE:]
        images = torch.from_numpy(digits.images).float()[chosen, None] * (255 / 16)
        images = F.interpolate(images, (size, size), mode='bilinear', align_corners=False)
        images = images.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
        super().__init__(images, labels[chosen], self.METAINFO['classes'], indices)

    @classmethod
    def image_size(cls, size: int = _SIZE, **options) -> int:
        return size


def _balanced_order(labels: torch.Tensor) -> torch.Tensor:
    """Return a fixed shuffled order in which every prefix has balanced classes."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    rank = torch.empty_like(labels)  # of an image within its class
    for label in labels.unique():
        of_class = shuffled[labels[shuffled] == label]
        rank[of_class] = torch.arange(len(of_class))
    return shuffled[torch.argsort(rank[shuffled], stable=True)]
