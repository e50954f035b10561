"""Datasets held in memory as one tensor and read by the batch."""
from typing import Dict, Iterator, List, Optional, Sequence, Union

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset

from mmat.registry import FUNCTIONS


class BatchedSamples(BaseDataElement):
    """The labels and predictions of a batch, a tensor each, which also pass for mmpretrain's list of DataSamples.

    As an mmengine data element it moves to the device with any data preprocessor. Iterating over it makes the
    DataSamples, once, and keeps what is written on them, so mmpretrain's classifiers and metrics and any hook work
    unchanged; who knows better reads the tensors.

    Args:
        gt_label (Tensor): Shape (N, ), int64.
        sample_idx (Sequence[int], optional): Positions in the dataset, kept as a NumPy array of shape (N, ).
        **kwargs: Other tensors with a row for each image: ``pred_score``, shape (N, classes), and ``pred_label``,
            shape (N, ), which :class:`mmat.models.LinearClsHead` adds.
    """

    def __init__(self, gt_label: Optional[Tensor] = None, sample_idx: Optional[Sequence[int]] = None, **kwargs):
        # No field of the element: a copy on another device makes its own. Each sample is beside what it was given.
        self.__dict__['_samples'] = {}
        super().__init__(**kwargs)
        if gt_label is not None:
            self.gt_label = gt_label
        if sample_idx is not None:
            # Every copy copies it deeply, which takes a list of integers one by one.
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
        """A tensor whose rows are what a DataSample holds: labels have shape (1, )."""
        value = getattr(self, name)
        return value if value.ndim > 1 else value.unsqueeze(1)

    def _sample(self, index: int, rows: Dict[str, Tensor]) -> DataSample:
        # mmpretrain's TimmClassifier writes its predictions on the samples that it is given, and gives them back.
        if index not in self._samples:
            sample = DataSample()
            if 'sample_idx' in self:
                sample.set_metainfo(dict(sample_idx=int(self.sample_idx[index])))
            self._samples[index] = sample, {}
            for name, row in rows.items():
                self._write(index, name, row)
        return self._samples[index][0]

    def _write(self, index: int, name: str, row: Tensor) -> None:
        sample, given = self._samples[index]
        given[name] = row
        getattr(sample, f'set_{name}')(row)

    def untouched(self) -> bool:
        """Whether the tensors tell all: nobody has put other labels or predictions on one of the samples."""
        return all(set(sample.keys()) == set(given) and all(sample.get(name) is row for name, row in given.items())
                   for sample, given in self._samples.values())


class InMemoryDataset(Dataset):
    """Images and labels as two tensors; a batch is one index into them.

    Use with ``collate_fn=dict(type='mmat.keep_batch')`` and no workers: there is nothing left for them to do.

    Args:
        images (Tensor): Shape (N, C, H, W), uint8.
        labels (Tensor): Shape (N, ), int64.
        classes (Sequence[str]): Class names, by label.
        indices (int | Sequence[int], optional): Keep the first so many images (the last, where negative, as in
            mmengine's datasets), or those at these positions. Defaults to None, all.

    Raises:
        ValueError: ``indices`` outside the dataset.
    """

    # Whether the three channels are equal.
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
                raise ValueError(f'indices must choose among {len(images)} images, got {indices!r}')
            images, labels = images[chosen], labels[chosen]
        self.images = images
        self.labels = labels
        self.metainfo = dict(classes=tuple(classes))

    @classmethod
    def image_size(cls, **options) -> Optional[int]:
        """Height and width of the images of a dataset made with these options, told without its data.

        A picture from elsewhere becomes such an image by it; see :class:`mmat.apis.AttentionInferencer`.

        Args:
            **options: As the class takes them.

        Returns:
            int | None: None where the class does not tell.
        """
        return None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=self.images[index], data_samples=BatchedSamples(self.labels[[index]], [index])[0])

    def __getitems__(self, indices: List[int]) -> dict:
        # Called by torch's loader with the whole batch, where __getitem__ would be called image by image.
        index = np.asarray(indices)
        chosen = torch.from_numpy(index)
        # Several times as fast as `images[chosen]`.
        return dict(inputs=self.images.index_select(0, chosen),
                    data_samples=BatchedSamples(self.labels.index_select(0, chosen), index))


@FUNCTIONS.register_module()
def keep_batch(batch: dict) -> dict:
    """The collate function of a dataset that gives whole batches."""
    return batch
