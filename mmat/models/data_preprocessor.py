"""Batched augmentation and normalisation on the model's device."""
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

from mmat.errors import ConfigError, UserError
from mmat.registry import MODELS

from .random_stream import RandomStream


@lru_cache(maxsize=32)
def _windows(size: int, padding: int, padding_mode: str, device: torch.device) -> Tensor:
    """Return the source pixel of each pixel of each crop window along one axis, shape (2 * padding + 1, size).

    With constant padding, pixels outside the image get index ``size``.
    """
    index = torch.arange(-padding, padding + 1, device=device)[:, None] + torch.arange(size, device=device)
    if padding_mode == 'constant':
        return torch.where((index >= 0) & (index < size), index, size)
    return torch.where(index.abs() < size, index.abs(), 2 * (size - 1) - index.abs())


@lru_cache(maxsize=32)
def _tables(height: int, width: int, channels: int, padding: int, padding_mode: str, channels_last: bool,
            device: torch.device) -> Tuple[Tensor, Tensor]:
    """Return the source rows by top corner and the source columns by flip and left corner of :func:`crop_and_flip`."""
    rows, columns = (_windows(size, padding, padding_mode, device) for size in (height, width))
    rows = rows.clamp(max=height - 1)
    columns = torch.stack([columns, columns.flip(1)]).flatten(0, 1).clamp(max=width - 1)
    channel = torch.arange(channels, device=device)
    if channels_last:
        # A row of the result holds all channels.
        return ((rows[:, :, None] + channel * height).flatten(1), (columns[:, :, None] + channel * width).flatten(1))
    return (rows[:, None] + channel[:, None] * height).flatten(1), columns


def crop_and_flip(images: Tensor,
                  tops: Tensor,
                  lefts: Tensor,
                  flips: Tensor,
                  padding: int,
                  padding_mode: str = 'reflect',
                  channels_last: bool = False) -> Tensor:
    """Pad, crop and flip the images of a batch.

    Image ``i`` is padded by ``padding`` pixels on every side, cropped to its original size at ``(tops[i], lefts[i])``,
    and flipped horizontally if ``flips[i]``. Implemented as one row copy and one gather for the batch, without padding.

    Args:
        images (Tensor): Shape (N, C, H, W), any dtype.
        tops (Tensor): Shape (N, ), int64, from 0 to ``2 * padding``.
        lefts (Tensor): Like ``tops``.
        flips (Tensor): Shape (N, ), bool.
        padding (int): Less than H and W.
        padding_mode (str): 'reflect', or 'constant' for zeros. Defaults to 'reflect'.
        channels_last (bool): Return channels_last memory. Defaults to False.

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
    """Move a batch of equally sized images to the model's device, augment it in training, and normalise it.

    Random numbers come from torch's global CPU generator. Each process draws for the global batch and uses its share,
    so with equal seeds image ``i`` of a batch gets the same crop and flip for any number of processes. With ``seed``
    they come from a private :class:`RandomStream`, ``random``: runs with equal seeds here and in their samplers train
    on the same batches, independent of all other random numbers.

    Args:
        mean (Sequence[float], optional): Mean of each channel, on the scale of the images (0 to 255 for uint8).
            Defaults to None; without ``mean`` and ``std``, images are not normalised.
        std (Sequence[float], optional): Standard deviation of each channel. Defaults to None.
        padding (int): In training, pad each side by this many pixels and crop at random; 0 for no crop. Defaults to 0.
        flip_prob (float): Probability of a horizontal flip in training. Defaults to 0.
        channels_last (bool): Return channels_last memory, which convolutions propagate. Defaults to False.
        batch_augments (dict, optional): mmpretrain's mixing augmentations (mixup, cutmix), as in its preprocessor;
            labels become scores. ``ImageClassifier(train_cfg=...)`` sets them here. Defaults to None.
        num_classes (int, optional): Required by ``batch_augments``. Defaults to None.
        padding_mode (str): 'reflect', or 'constant' for black as in torchvision's RandomCrop. Defaults to 'reflect'.
        seed (int, optional): Seed of a private random stream. Defaults to None, the global random state.

    Raises:
        ConfigError: An option is invalid, or, at run time, the images have other channels than ``mean``.
        UserError: At run time, images are not larger than ``padding``.
    """

    # Order of the channels that it returns: mmat's datasets are RGB, and it does not swap channels.
    channel_order = 'rgb'

    def __init__(self,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 padding: int = 0,
                 flip_prob: float = 0,
                 channels_last: bool = False,
                 batch_augments: Optional[dict] = None,
                 num_classes: Optional[int] = None,
                 padding_mode: str = 'reflect',
                 seed: Optional[int] = None):
        super().__init__(non_blocking=True)
        if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
            raise ConfigError(f'Options mean and std must have the same length, got {mean} and {std}.')
        if padding < 0:
            raise ConfigError(f'The padding must be at least 0, got {padding}.')
        if padding_mode not in ('reflect', 'constant'):
            raise ConfigError(f"The padding_mode must be 'reflect' or 'constant', got {padding_mode!r}.")
        if not 0 <= flip_prob <= 1:
            raise ConfigError(f'The flip_prob must be between 0 and 1, got {flip_prob}.')
        for name, value in (('mean', mean), ('std', std)):
            buffer = None if value is None else torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)
        self.padding = padding
        self.padding_mode = padding_mode
        self.flip_prob = flip_prob
        if batch_augments and not num_classes:
            raise ConfigError('The option batch_augments needs num_classes, to convert labels to scores.')
        self.channels_last = channels_last
        self.batch_augments = RandomBatchAugment(**batch_augments) if batch_augments else None
        self.num_classes = num_classes
        self.random = None if seed is None else RandomStream(seed)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess ``dict(inputs=(N, C, H, W), data_samples=...)``. Labels are moved to the device too."""
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
        """Convert images to float32 and normalise them."""
        values = images.float()
        if self.mean is None:
            return values
        if images.shape[1] != len(self.mean):
            raise ConfigError(f'Options mean and std have {len(self.mean)} channels, but the images {images.shape[1]}.')
        mean, std = self.mean, self.std
        is_view = values.is_contiguous(memory_format=torch.channels_last)
        if is_view:
            # Normalise whole rows of pixels: a loop over three channels is too short to vectorise.
            mean, std = (each.flatten().repeat(images.shape[-1]) for each in (mean, std))
            values = values.permute(0, 2, 3, 1).flatten(2)
        is_copy = values.dtype == mean.dtype and values.data_ptr() != images.data_ptr()
        values = (values.sub_(mean) if is_copy else values - mean).div_(std)
        return values.view(*values.shape[:2], -1, len(self.mean)).permute(0, 3, 1, 2) if is_view else values

    def augment(self, images: Tensor) -> Tensor:
        """Crop and flip images at random."""
        if self.padding >= min(images.shape[-2:]):
            raise UserError(f'Images must be larger than the {self.padding_mode} padding of {self.padding}, got '
                            f'{tuple(images.shape[-2:])}.')
        tops, lefts, flips = (draw.to(images.device, non_blocking=True) for draw in self.draw(len(images)))
        return crop_and_flip(images, tops, lefts, flips, self.padding, self.padding_mode, self.channels_last)

    def mix(self, images: Tensor, samples: Sequence[DataSample]) -> Tuple[Tensor, List[DataSample]]:
        """Mix images and labels with ``batch_augments``."""
        assert self.batch_augments is not None and self.num_classes is not None
        samples = list(samples)
        labels = torch.cat([sample.gt_label for sample in samples])
        with self.random.as_global() if self.random else nullcontext():
            images, scores = self.batch_augments(images, F.one_hot(labels, self.num_classes).float())
        return images, [sample.set_gt_score(score) for sample, score in zip(samples, scores)]

    def draw(self, count: int) -> Tuple[Tensor, Tensor, Tensor]:
        """Draw tops, lefts and flips for this process's share of a batch; ``count`` is the size of the share."""
        rank, world_size = get_dist_info()
        generator = self.random.generator if self.random else None
        corners = torch.randint(0, 2 * self.padding + 1, (count * world_size, 2), generator=generator)
        flips = torch.rand(count * world_size, generator=generator) < self.flip_prob
        # mmengine's samplers assign images to processes round-robin.
        return corners[rank::world_size, 0], corners[rank::world_size, 1], flips[rank::world_size]
