"""Augmentation and normalisation of a whole batch on the model's device."""
from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.dist import get_dist_info
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models import RandomBatchAugment
from mmpretrain.structures import DataSample
from torch import Tensor

from mmat.registry import MODELS


def crop_and_flip(images: Tensor,
                  tops: Tensor,
                  lefts: Tensor,
                  flips: Tensor,
                  padding: int,
                  padding_mode: str = 'reflect') -> Tensor:
    """Cut each image out of its padded self, and mirror some.

    Equal to padding every side of image ``i`` by ``padding`` pixels, cutting the window of the original size whose
    corner is at ``(tops[i], lefts[i])``, and mirroring it left to right where ``flips[i]``, but one gather for the
    batch, and no padded copy.

    Args:
        images (Tensor): Shape (N, C, H, W), any dtype.
        tops (Tensor): Shape (N, ), integers from 0 to ``2 * padding``.
        lefts (Tensor): Likewise.
        flips (Tensor): Shape (N, ), bool.
        padding (int): Less than H and W.
        padding_mode (str): 'reflect', or 'constant', which is zero. Defaults to 'reflect'.

    Returns:
        Tensor: Shape (N, C, H, W), in channels_last memory.
    """
    height, width = images.shape[-2:]

    def window(start: Tensor, size: int) -> Tensor:
        return start[:, None] - padding + torch.arange(size, device=start.device)

    def reflected(index: Tensor, size: int) -> Tensor:
        return torch.where(index.abs() < size, index.abs(), 2 * (size - 1) - index.abs())

    rows, columns = window(tops, height), window(lefts, width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    sample = torch.arange(len(images), device=images.device)
    # Indices on both sides of the channel slice put it last: (N, H, W, C).
    cropped = images[sample[:, None, None], :, reflected(rows, height)[:, :, None],
                     reflected(columns, width)[:, None, :]]
    if padding_mode == 'constant':
        inside = (rows == rows.clamp(0, height - 1))[:, :, None] & (columns == columns.clamp(0, width - 1))[:, None, :]
        cropped *= inside.unsqueeze(-1)
    return cropped.permute(0, 3, 1, 2)


@MODELS.register_module()
class BatchPreprocessor(BaseDataPreprocessor):
    """Moves a batch of equally sized images to the model's device, augments it in training, and normalises it.

    Random numbers come from torch's global CPU generator, one draw for the whole batch of all processes, of which each
    takes its share: with equal seeds, image ``i`` of a batch is cropped and flipped alike however many processes share
    it.

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
                 padding_mode: str = 'reflect'):
        super().__init__()
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
        images = images.float()
        if self.mean is not None:
            if images.shape[1] != len(self.mean):
                raise ValueError(f'mean and std are for {len(self.mean)} channels, the images have {images.shape[1]}')
            images = (images - self.mean) / self.std
        if training and self.batch_augments is not None:
            images, data['data_samples'] = self.mix(images, data['data_samples'])
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        data['inputs'] = images.contiguous(memory_format=layout)
        return data

    def augment(self, images: Tensor) -> Tensor:
        if self.padding >= min(images.shape[-2:]):
            raise ValueError(f'{self.padding_mode} padding of {self.padding} needs images larger than that, got '
                             f'{tuple(images.shape[-2:])}')
        draws = (draw.to(images.device, non_blocking=True) for draw in self.draw(len(images)))
        return crop_and_flip(images, *draws, self.padding, self.padding_mode)

    def mix(self, images: Tensor, samples: Sequence[DataSample]) -> Tuple[Tensor, List[DataSample]]:
        samples = list(samples)
        labels = torch.cat([sample.gt_label for sample in samples])
        images, scores = self.batch_augments(images, F.one_hot(labels, self.num_classes).float())
        return images, [sample.set_gt_score(score) for sample, score in zip(samples, scores)]

    def draw(self, count: int) -> Tuple[Tensor, Tensor, Tensor]:
        """Random tops, lefts and flips of this process's share of a batch; ``count`` is the share's size."""
        rank, world_size = get_dist_info()
        corners = torch.randint(0, 2 * self.padding + 1, (count * world_size, 2))
        flips = torch.rand(count * world_size) < self.flip_prob
        # mmengine's samplers deal images to processes in turn.
        return corners[rank::world_size, 0], corners[rank::world_size, 1], flips[rank::world_size]
