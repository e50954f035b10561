"""Augmentation and normalisation of a whole batch on the model's device."""
from contextlib import nullcontext
from functools import lru_cache
from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.dist import get_dist_info
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models import RandomBatchAugment
from mmpretrain.structures import DataSample
from torch import Tensor

from mmat.registry import MODELS

from .random_stream import RandomStream


@lru_cache(maxsize=32)
def _windows(size: int, padding: int, padding_mode: str, device: torch.device) -> Tensor:
    """For each corner of a window in a row of ``size`` padded pixels, which pixel lies where: (2 * padding + 1, size).

    A pixel outside, where the padding is black, is numbered ``size``.
    """
    index = torch.arange(-padding, padding + 1, device=device)[:, None] + torch.arange(size, device=device)
    if padding_mode == 'constant':
        return torch.where((index >= 0) & (index < size), index, size)
    return torch.where(index.abs() < size, index.abs(), 2 * (size - 1) - index.abs())


@lru_cache(maxsize=32)
def _tables(height: int, width: int, channels: int, padding: int, padding_mode: str, channels_last: bool,
            device: torch.device) -> Tuple[Tensor, Tensor]:
    """Where :func:`crop_and_flip` reads: rows by top corner, and columns by flip and left corner."""
    rows, columns = (_windows(size, padding, padding_mode, device) for size in (height, width))
    rows = rows.clamp(max=height - 1)
    columns = torch.stack([columns, columns.flip(1)]).flatten(0, 1).clamp(max=width - 1)
    channel = torch.arange(channels, device=device)
    if channels_last:
        # A row of the result is one of all channels.
        return ((rows[:, :, None] + channel * height).flatten(1), (columns[:, :, None] + channel * width).flatten(1))
    return (rows[:, None] + channel[:, None] * height).flatten(1), columns


def crop_and_flip(images: Tensor,
                  tops: Tensor,
                  lefts: Tensor,
                  flips: Tensor,
                  padding: int,
                  padding_mode: str = 'reflect',
                  channels_last: bool = False) -> Tensor:
    """Cut each image out of its padded self, and mirror some.

    Equal to padding every side of image ``i`` by ``padding`` pixels, cutting the window of the original size whose
    corner is at ``(tops[i], lefts[i])``, and mirroring it left to right where ``flips[i]``, but one copy of rows and
    one gather of pixels for the whole batch, and nothing padded.

    Args:
        images (Tensor): Shape (N, C, H, W), any dtype.
        tops (Tensor): Shape (N, ), int64, from 0 to ``2 * padding``.
        lefts (Tensor): Likewise.
        flips (Tensor): Shape (N, ), bool.
        padding (int): Less than H and W.
        padding_mode (str): 'reflect', or 'constant', which is zero. Defaults to 'reflect'.
        channels_last (bool): Whether the result lies in channels_last memory. Defaults to False.

    Returns:
        Tensor: Shape (N, C, H, W).
    """
    count, channels, height, width = images.shape
    rows, columns = _tables(height, width, channels, padding, padding_mode, channels_last, images.device)
    first = torch.arange(0, count * channels * height, channels * height, device=images.device)
    picked = images.reshape(-1, width).index_select(0, (rows.index_select(0, tops) + first[:, None]).flatten())
    picked = picked.view(count, -1, channels * width if channels_last else width)
    columns = columns.index_select(0, lefts + (2 * padding + 1) * flips)
    cropped = picked.gather(2, columns[:, None].expand(-1, picked.shape[1], -1))
    if channels_last:
        cropped = cropped.view(count, height, width, channels).permute(0, 3, 1, 2)
    else:
        cropped = cropped.view(images.shape)
    if padding_mode == 'constant':
        row_index, column_index = (_windows(size, padding, padding_mode, images.device) for size in (height, width))
        column_index = torch.where(flips[:, None], column_index.flip(1)[lefts], column_index[lefts])
        cropped *= ((row_index[tops] < height)[:, :, None] & (column_index < width)[:, None, :])[:, None]
    return cropped


@MODELS.register_module()
class BatchPreprocessor(BaseDataPreprocessor):
    """Moves a batch of equally sized images to the model's device, augments it in training, and normalises it.

    Random numbers come from torch's global CPU generator, one draw for the whole batch of all processes, of which each
    takes its share: with equal seeds, image ``i`` of a batch is cropped and flipped alike however many processes share
    it. With a ``seed`` they come from a stream of its own, ``random``: runs with equal seeds here and of their sampler
    see the same batches, whatever else they draw.

    Args:
        mean (Sequence[float], optional): By channel, on the scale of the images (0 to 255 for uint8). Defaults to
            None: with ``std``, no normalisation.
        std (Sequence[float], optional): Likewise.
        padding (int): Pad this many pixels on every side and crop at random in training; 0 for no crop. Defaults to 0.
        flip_prob (float): Probability of a horizontal flip in training. Defaults to 0.
        channels_last (bool): Give the batch in channels_last memory, which convolutions follow. Defaults to False.
        batch_augments (dict, optional): mmpretrain's mixing augmentations (mixup, cutmix), as in its preprocessor;
            labels become scores. ``ImageClassifier(train_cfg=...)`` puts them here. Defaults to None.
        num_classes (int, optional): Needed by ``batch_augments``. Defaults to None.
        padding_mode (str): What to pad with: 'reflect', or 'constant', black, as torchvision's RandomCrop. Defaults
            to 'reflect'.
        seed (int, optional): Of a random stream for what is drawn here. Defaults to None, the global one.

    Raises:
        ValueError: An option outside these; at run time, images not larger than ``padding`` or of other channels.
    """

    def __init__(self,
                 mean: Sequence[float] = None,
                 std: Sequence[float] = None,
                 padding: int = 0,
                 flip_prob: float = 0,
                 channels_last: bool = False,
                 batch_augments: Optional[dict] = None,
                 num_classes: Optional[int] = None,
                 padding_mode: str = 'reflect',
                 seed: Optional[int] = None):
        # A copy to the device need not have arrived when the host goes on.
        super().__init__(non_blocking=True)
        if (mean is None) != (std is None) or (mean is not None and len(mean) != len(std)):
            raise ValueError(f'mean and std must have the same length, got {mean} and {std}')
        if padding < 0:
            raise ValueError(f'padding must be at least 0, got {padding}')
        if padding_mode not in ('reflect', 'constant'):
            raise ValueError(f"padding_mode must be 'reflect' or 'constant', got {padding_mode!r}")
        if not 0 <= flip_prob <= 1:
            raise ValueError(f'flip_prob must be between 0 and 1, got {flip_prob}')
        for name, value in (('mean', mean), ('std', std)):
            value = None if value is None else torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.padding = padding
        self.padding_mode = padding_mode
        self.flip_prob = flip_prob
        if batch_augments and not num_classes:
            raise ValueError('batch_augments turn labels into scores, for which they need num_classes')
        self.channels_last = channels_last
        self.batch_augments = RandomBatchAugment(**batch_augments) if batch_augments else None
        self.num_classes = num_classes
        self.random = None if seed is None else RandomStream(seed)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess ``dict(inputs=(N, C, H, W), data_samples=...)``; labels move to the device too."""
        data = dict(data)
        data['data_samples'] = self.cast_data(data.get('data_samples'))
        images = data['inputs']
        if not isinstance(images, Tensor):
            images = torch.stack(list(images))
        images = images.to(self.device, non_blocking=True)
        if training and (self.padding or self.flip_prob):
            images = self.augment(images)
        images = self.normalize(images)
        if training and self.batch_augments is not None:
            images, data['data_samples'] = self.mix(images, data['data_samples'])
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        data['inputs'] = images.contiguous(memory_format=layout)
        return data

    def normalize(self, images: Tensor) -> Tensor:
        values = images.float()
        if self.mean is None:
            return values
        if images.shape[1] != len(self.mean):
            raise ValueError(f'mean and std are for {len(self.mean)} channels, the images have {images.shape[1]}')
        mean, std = self.mean, self.std
        is_view = values.is_contiguous(memory_format=torch.channels_last)
        if is_view:
            # By whole rows of pixels: three channels are a loop too short to be worth a vector.
            mean, std = (each.flatten().repeat(images.shape[-1]) for each in (mean, std))
            values = values.permute(0, 2, 3, 1).flatten(2)
        mine = values.dtype == mean.dtype and values.data_ptr() != images.data_ptr()
        values = (values.sub_(mean) if mine else values - mean).div_(std)
        return values.view(*values.shape[:2], -1, len(self.mean)).permute(0, 3, 1, 2) if is_view else values

    def augment(self, images: Tensor) -> Tensor:
        if self.padding >= min(images.shape[-2:]):
            raise ValueError(f'{self.padding_mode} padding of {self.padding} needs images larger than that, got '
                             f'{tuple(images.shape[-2:])}')
        draws = (draw.to(images.device, non_blocking=True) for draw in self.draw(len(images)))
        return crop_and_flip(images, *draws, self.padding, self.padding_mode, self.channels_last)

    def mix(self, images: Tensor, samples: Sequence[DataSample]) -> Tuple[Tensor, List[DataSample]]:
        samples = list(samples)
        labels = torch.cat([sample.gt_label for sample in samples])
        with self.random.as_global() if self.random else nullcontext():
            images, scores = self.batch_augments(images, F.one_hot(labels, self.num_classes).float())
        return images, [sample.set_gt_score(score) for sample, score in zip(samples, scores)]

    def draw(self, count: int) -> Tuple[Tensor, Tensor, Tensor]:
        """Random tops, lefts and flips of this process's share of a batch; ``count`` is the share's size."""
        rank, world_size = get_dist_info()
        generator = self.random and self.random.generator
        corners = torch.randint(0, 2 * self.padding + 1, (count * world_size, 2), generator=generator)
        flips = torch.rand(count * world_size, generator=generator) < self.flip_prob
        # mmengine's samplers deal images to processes in turn.
        return corners[rank::world_size, 0], corners[rank::world_size, 1], flips[rank::world_size]
