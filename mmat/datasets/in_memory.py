"""Datasets held in memory as one tensor and read by the batch."""
from typing import Iterator, List, Optional, Sequence, Union

import torch
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset

from mmat.registry import FUNCTIONS


class BatchedSamples(BaseDataElement):
    """The labels of a batch in one tensor, which also passes for mmpretrain's list of DataSamples.

    As an mmengine data element it moves to the device with any data preprocessor. Iterating over it makes the
    DataSamples, once, and keeps what is written on them, so mmpretrain's classifiers and metrics work unchanged; who
    knows better reads ``gt_label``.

    Args:
        gt_label (Tensor): Shape (N, ), int64.
        sample_idx (list[int], optional): Positions in the dataset.
    """

    def __init__(self, gt_label: Optional[Tensor] = None, sample_idx: Optional[List[int]] = None, **kwargs):
        # No field of the element: a copy on another device makes its own.
        self.__dict__['_samples'] = {}
        super().__init__(**kwargs)
        if gt_label is not None:
            self.gt_label = gt_label
        if sample_idx is not None:
            self.set_metainfo(dict(sample_idx=sample_idx))

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == 'gt_label':
            self._samples.clear()

    def __len__(self) -> int:
        return len(self.gt_label)

    def __getitem__(self, index: Union[int, slice]) -> Union[DataSample, List[DataSample]]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        # mmpretrain's TimmClassifier writes its predictions on the samples that it is given, and gives them back.
        index = range(len(self))[index]
        if index not in self._samples:
            sample = DataSample().set_gt_label(self.gt_label[index].view(1))
            if 'sample_idx' in self:
                sample.set_metainfo(dict(sample_idx=self.sample_idx[index]))
            self._samples[index] = sample
        return self._samples[index]

    def __iter__(self) -> Iterator[DataSample]:
        return (self[index] for index in range(len(self)))


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
        return dict(inputs=self.images[indices], data_samples=BatchedSamples(self.labels[indices], indices))


@FUNCTIONS.register_module()
def keep_batch(batch: dict) -> dict:
    """The collate function of a dataset that gives whole batches."""
    return batch
