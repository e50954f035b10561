"""Datasets held in memory as one tensor, read in batches."""
from typing import Dict, Iterator, List, Optional, Sequence, Union

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset

from mmat.errors import ConfigError
from mmat.registry import FUNCTIONS


class BatchedSamples(BaseDataElement):
    """Labels and predictions of a batch as tensors, with the interface of mmpretrain's list of DataSamples.

    As an mmengine data element it moves to the device with any data preprocessor. Iterating over it creates the
    DataSamples once and keeps changes to them, so mmpretrain's classifiers, metrics and any hook work unchanged. Code
    that supports batches reads the tensors directly.

    Args:
        gt_label (Tensor): Shape (N, ), int64.
        sample_idx (Sequence[int], optional): Positions in the dataset, kept as a NumPy array of shape (N, ).
        **kwargs: Other tensors with one row per image, such as ``pred_score``, shape (N, classes), and ``pred_label``,
            shape (N, ), which :class:`mmat.models.LinearClsHead` adds.
    """

    def __init__(self, gt_label: Optional[Tensor] = None, sample_idx: Optional[Sequence[int]] = None, **kwargs):
        # Index -> sample and the rows written to it. Not a field, so that a copy on another device has its own samples.
        self.__dict__['_samples'] = {}
        super().__init__(**kwargs)
        if gt_label is not None:
            self.gt_label = gt_label
        if sample_idx is not None:
            # An array, because every copy is deep, which is slow for a list of integers.
            self.set_metainfo(dict(sample_idx=np.asarray(sample_idx)))

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        for index in self._samples:
            self._write(index, name, self._rows(name)[index])

    def __len__(self) -> int:
        return len(self.gt_label)

    def __getitem__(self, index: Union[int, slice]) -> Union[DataSample, List[DataSample]]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        index = range(len(self))[index]
        return self._sample(index, {name: self._rows(name)[index] for name in self.keys()})

    def __iter__(self) -> Iterator[DataSample]:
        rows = {name: self._rows(name).unbind() for name in self.keys()}
        return (self._sample(index, {name: each[index] for name, each in rows.items()}) for index in range(len(self)))

    def _rows(self, name: str) -> Tensor:
        """Return a field with rows as DataSamples hold them: labels have shape (1, )."""
        value = getattr(self, name)
        return value if value.ndim > 1 else value.unsqueeze(1)

    def _sample(self, index: int, rows: Dict[str, Tensor]) -> DataSample:
        # Samples are kept because mmpretrain's TimmClassifier writes its predictions to its inputs and returns them.
        if index not in self._samples:
            sample = DataSample()
            if 'sample_idx' in self:
                sample.set_metainfo(dict(sample_idx=int(self.sample_idx[index])))
            self._samples[index] = sample, {}
            for name, row in rows.items():
                self._write(index, name, row)
        return self._samples[index][0]

    def _write(self, index: int, name: str, row: Tensor) -> None:
        sample, rows = self._samples[index]
        rows[name] = row
        getattr(sample, f'set_{name}')(row)

    def untouched(self) -> bool:
        """Return True if no sample's labels or predictions were changed, so that the tensors are up to date."""
        return all(set(sample.keys()) == set(rows) and all(sample.get(name) is row for name, row in rows.items())
                   for sample, rows in self._samples.values())


class _Batch(dict):
    """A batch as a dict, which collate functions can also read as a sequence of items."""

    def __missing__(self, index: int) -> dict:
        if isinstance(index, str):
            raise KeyError(index)
        return {name: values[index] for name, values in self.items()}

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self['inputs'])))


class InMemoryDataset(Dataset):
    """Images and labels as two tensors. A batch is read with one indexing operation.

    Use it with ``collate_fn=dict(type='mmat.keep_batch')`` and ``num_workers=0``. Other collate functions, mmengine's
    dataset wrappers (which take its config) and torch's read it image by image.

    Args:
        images (Tensor): Shape (N, C, H, W), uint8.
        labels (Tensor): Shape (N, ), int64.
        classes (Sequence[str]): Class names, by label.
        indices (int | Sequence[int], optional): Number of images to keep from the start (from the end if negative, as
            in mmengine's datasets), or the positions to keep. Defaults to None, all.

    Raises:
        ConfigError: ``indices`` is outside the dataset.
    """

    # True if the three channels are equal.
    grayscale = False

    def __init__(self,
                 images: Tensor,
                 labels: Tensor,
                 classes: Sequence[str],
                 indices: Optional[Union[int, Sequence[int]]] = None):
        if indices is not None:
            if isinstance(indices, int):
                chosen = torch.arange(indices) if indices >= 0 else torch.arange(indices, 0) + len(images)
            else:
                chosen = torch.as_tensor(list(indices))
            if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= len(images):
                raise ConfigError(f'{type(self).__name__}: `indices` must choose among {len(images)} images, '
                                  f'got {indices!r}.')
            images, labels = images[chosen], labels[chosen]
        self.images = images
        self.labels = labels
        self.metainfo = dict(classes=tuple(classes))

    # mmengine's wrappers call these three.
    def full_init(self) -> None:
        """Do nothing: the data is loaded."""

    def get_data_info(self, index: int) -> dict:
        """Return the label of an image."""
        return dict(gt_label=int(self.labels[index]))

    def get_cat_ids(self, index: int) -> List[int]:
        """Return the label of an image as a list."""
        return [int(self.labels[index])]

    @classmethod
    def image_size(cls, **options) -> Optional[int]:
        """Return the height and width of the images for given options, without reading the data.

        :class:`mmat.apis.AttentionInferencer` resizes pictures to this size.

        Args:
            **options: Arguments of the class.

        Returns:
            int | None: Size in pixels, or None if it is unknown.
        """
        return None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        sample = DataSample(metainfo=dict(sample_idx=index)).set_gt_label(self.labels[index])
        return dict(inputs=self.images[index], data_samples=sample)

    def __getitems__(self, indices: List[int]) -> dict:
        # torch's loader calls it with the whole batch, in place of __getitem__ for each image.
        index = np.asarray(indices)
        chosen = torch.from_numpy(index)
        # index_select is several times as fast as `images[chosen]`.
        return _Batch(inputs=self.images.index_select(0, chosen),
                      data_samples=BatchedSamples(self.labels.index_select(0, chosen), index))


@FUNCTIONS.register_module()
def keep_batch(batch: Union[dict, Sequence[dict]]) -> dict:
    """Return a batch that the dataset read as a whole. The collate function for :class:`InMemoryDataset`.

    A list of single images, as read through a dataset wrapper, is stacked.
    """
    if isinstance(batch, dict):
        return dict(batch)
    samples = [item['data_samples'] for item in batch]
    collated = default_collate(batch)
    if all({*sample.all_keys()} == {'gt_label', 'sample_idx'} for sample in samples):
        collated['data_samples'] = BatchedSamples(torch.cat([sample.gt_label for sample in samples]),
                                                  [sample.sample_idx for sample in samples])
    return collated
