"""Access to single images of a config's datasets."""
from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import FUNCTIONS
from torch import Tensor
from torch.utils.data import Dataset

from mmat.errors import ConfigError, DataError
from mmat.registry import DATASETS
from mmat.visualization import Photograph, photograph_of

PHASES = ('train', 'val', 'test')


def build_dataset(config: Config, phase: str) -> Dataset:
    """Build the dataset of a config's ``{phase}_dataloader``.

    Args:
        config (Config): A complete config.
        phase (str): 'train', 'val' or 'test'.

    Raises:
        ConfigError: The config has no such data loader.
        MissingFileError: The data does not exist.
    """
    loader = config.get(f'{phase}_dataloader')
    if not loader:
        others = [f'{each}_dataloader' for each in PHASES if config.get(f'{each}_dataloader')]
        raise ConfigError(f'The config has no {phase}_dataloader. It has {", ".join(others) or "no data loader"}.')
    return DATASETS.build(loader['dataset'])


def spaced_indices(count: int, length: int) -> List[int]:
    """Return ``count`` equally spaced indices below ``length``, including the first and last, or all if fewer exist."""
    return torch.linspace(0, length - 1, min(count, length)).round().long().tolist()


def read_batch(config: Config, phase: str, dataset: Dataset, indices: Sequence[int]) -> Tuple[dict, List[np.ndarray]]:
    """Read images of a dataset as a batch for the network, and as they are stored.

    Args:
        config (Config): Config with the loader's collate function.
        phase (str): Phase of the loader.
        dataset (Dataset): From :func:`build_dataset`.
        indices (Sequence[int]): Positions in the dataset.

    Returns:
        tuple: The batch, whose ``inputs`` have shape (N, C, H, W) or are a list if sizes differ; and the stored
        pictures, uint8 of shape (H, W, 3), with the dataset's order of channels.
    """
    if hasattr(dataset, '__getitems__'):
        # In memory: the preprocessor augments whole batches.
        stored = [_channels_last(dataset[index]['inputs']) for index in indices]
        items = dataset.__getitems__(list(indices))
    else:
        items, stored = zip(*(_run_pipeline(dataset, index) for index in indices))
    return _collate(config, phase, items), list(stored)


def read_photographs(config: Config, phase: str, dataset: Dataset, indices: Sequence[int],
                     is_bgr: bool) -> Tuple[dict, List[Optional[Photograph]]]:
    """Read images of a dataset as a batch for the network, and as photographs.

    Args:
        config, phase, dataset, indices: See :func:`read_batch`.
        is_bgr (bool): Whether the dataset loads BGR.

    Returns:
        tuple: The batch, see :func:`read_batch`, and the photographs. One is None if the dataset is held in memory or
        has no pipeline, or if the pipeline distorts the image.
    """
    if hasattr(dataset, '__getitems__'):
        return read_batch(config, phase, dataset, indices)[0], [None] * len(indices)
    photographs, items = [], []
    for index in indices:
        photographs.append(photograph_of(dataset, index, is_bgr))
        items.append(_run_pipeline(dataset, index)[0])
    return _collate(config, phase, items), photographs


def _collate(config: Config, phase: str, items: Sequence) -> dict:
    collate = dict(config[f'{phase}_dataloader'].get('collate_fn') or dict(type='pseudo_collate'))
    # As in mmengine's Runner: the other settings are arguments.
    collate_fn = FUNCTIONS.get(collate.pop('type'))
    return collate_fn(items, **collate)


def _run_pipeline(dataset: Dataset, index: int) -> Tuple[dict, np.ndarray]:
    """Return an item, and its picture after the first transform that loads it."""
    if not hasattr(dataset, 'pipeline') or not hasattr(dataset, 'get_data_info'):
        item = dataset[index]
        return item, _channels_last(item['inputs'])
    data, stored = dataset.get_data_info(index), None
    for transform in dataset.pipeline.transforms:
        if stored is None and 'img' in data:
            stored = np.array(data['img'])
        data = transform(data)
        if data is None:
            raise DataError(f'{type(transform).__name__} drops image {index} of the dataset, so it cannot be drawn.')
    return data, _channels_last(data['inputs']) if stored is None else stored


def _channels_last(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).cpu().numpy()


def to_rgb(picture: np.ndarray, preprocessor: nn.Module) -> np.ndarray:
    """Convert a stored picture to RGB of shape (H, W, 3), with the channel order that the preprocessor expects."""
    picture = picture if picture.ndim == 3 else picture[..., None]
    if picture.shape[-1] != 3:
        return np.repeat(picture[..., :1], 3, axis=-1)
    return picture[..., ::-1] if getattr(preprocessor, 'to_rgb', False) else picture
