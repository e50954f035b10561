"""Single images of a config's datasets."""
from typing import List, Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import FUNCTIONS
from torch import Tensor
from torch.utils.data import Dataset

from mmat.registry import DATASETS

PHASES = ('train', 'val', 'test')


def build_dataset(config: Config, phase: str) -> Dataset:
    """The dataset that a config trains, validates or tests on.

    Args:
        config (Config): With ``{phase}_dataloader``.
        phase (str): 'train', 'val' or 'test'.

    Raises:
        ValueError: The config has none of the phase.
        FileNotFoundError: Its files are not there.
    """
    loader = config.get(f'{phase}_dataloader')
    if not loader:
        others = [each for each in PHASES if config.get(f'{each}_dataloader')]
        raise ValueError(f'the config has no {phase}_dataloader; it has those of {", ".join(others) or "no phase"}')
    return DATASETS.build(loader['dataset'])


def spread(count: int, length: int) -> List[int]:
    """So many of ``length`` positions at equal distances, first and last among them; all, if there are fewer."""
    return torch.linspace(0, length - 1, min(count, length)).round().long().tolist()


def read_batch(config: Config, phase: str, dataset: Dataset, indices: Sequence[int]) -> Tuple[dict, List[np.ndarray]]:
    """Some images of a dataset, once as its loader gives them to the network, once as they are stored.

    Args:
        config (Config): For the loader's collate function.
        phase (str): Whose loader.
        dataset (Dataset): From :func:`build_dataset`.
        indices (Sequence[int]): Positions in it.

    Returns:
        tuple: The batch, with ``inputs`` of shape (N, C, H, W), or a list where sizes differ; and stored pictures,
        (H, W, 3), uint8, of the dataset's order of channels.
    """
    if hasattr(dataset, '__getitems__'):
        # Held in memory: the preprocessor augments, batch by batch.
        stored = [_channels_last(dataset[index]['inputs']) for index in indices]
        items = dataset.__getitems__(list(indices))
    else:
        items, stored = zip(*(_run_pipeline(dataset, index) for index in indices))
    collate = dict(config[f'{phase}_dataloader'].get('collate_fn') or dict(type='pseudo_collate'))
    # As mmengine's Runner does; the rest are arguments.
    collate_fn = FUNCTIONS.get(collate.pop('type'))
    return collate_fn(items, **collate), list(stored)


def _run_pipeline(dataset: Dataset, index: int) -> Tuple[dict, np.ndarray]:
    """An item of a dataset with a pipeline, and its picture as the first transform leaves it."""
    if not hasattr(dataset, 'pipeline') or not hasattr(dataset, 'get_data_info'):
        item = dataset[index]
        return item, _channels_last(item['inputs'])
    data, stored = dataset.get_data_info(index), None
    for transform in dataset.pipeline.transforms:
        if stored is None and 'img' in data:
            stored = np.array(data['img'])
        data = transform(data)
        if data is None:
            raise ValueError(f'the pipeline drops image {index}')
    return data, _channels_last(data['inputs']) if stored is None else stored


def _channels_last(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).cpu().numpy()


def stored_in_rgb(stored: np.ndarray, preprocessor: nn.Module) -> np.ndarray:
    """A stored picture in RGB, (H, W, 3), uint8, its channels turned round where the preprocessor turns them."""
    picture = stored if stored.ndim == 3 else stored[..., None]
    if picture.shape[-1] != 3:
        return np.repeat(picture[..., :1], 3, axis=-1)
    return picture[..., ::-1] if getattr(preprocessor, 'to_rgb', False) else picture
