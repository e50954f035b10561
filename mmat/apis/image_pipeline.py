"""How a picture becomes an image of a config's dataset."""
from typing import Callable, List, Optional, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from mmat.datasets import InMemoryDataset
from mmat.registry import DATASETS

# Steps that read files, mmcv's and ours.
_LOADING = ('LoadImageFromFile', 'LoadImage')
# mmpretrain's datasets that hold their images themselves, as ours do: their size, and how Pillow calls their channels.
_MMPRETRAINS = dict(CIFAR10=(32, ['RGB']), CIFAR100=(32, ['RGB']), MNIST=(28, ['L']), FashionMNIST=(28, ['L']))


def build_image_pipeline(config: Config) -> Tuple[Callable[[np.ndarray], dict], bool]:
    """The test pipeline of a config for pictures that are read already.

    It lacks the steps that load a file, and the bounding box that only a dataset knows. For images held in memory the
    whole picture is first resized to their size, antialiased, and made grey where they are.

    Args:
        config (Config): With a ``test_dataloader``, or else a ``val_dataloader``. Its data is not read.

    Returns:
        tuple: What makes of an array of shape (H, W, 3), uint8, BGR, the ``inputs``, (C, H, W), and ``data_samples``
        that the config's loader would give; and whether these are still BGR.

    Raises:
        ValueError: The config does not tell.
    """
    loader = config.get('test_dataloader') or config.get('val_dataloader') or {}
    dataset = loader.get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    held = _held_in_memory(dataset)
    if held is None and 'pipeline' not in dataset:
        raise ValueError('the config does not tell how a picture becomes an image of its dataset: its test_dataloader '
                         'has neither a pipeline nor a dataset in memory whose class tells its image_size (it has '
                         f'{_type_name(dataset) or "no dataset"})')
    # Steps without a prefix are of the config's own scope, whatever the current one is.
    scope = config.get('default_scope') if 'pipeline' in dataset else None
    with DefaultScope.overwrite_default_scope(scope or 'mmpretrain'):
        steps = dataset.get('pipeline', [dict(type='mmpretrain.PackInputs')])
        steps = Compose([TRANSFORMS.build(step) for step in steps
                         if _type_name(step) not in (*_LOADING, 'CropBoundingBox')])

    def prepare(image: np.ndarray) -> dict:
        if held is not None:
            image = _resize(image, *held)
        return steps(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2]))

    return prepare, held is None


def _type_name(config: dict) -> str:
    """The type of a config without its prefix; configs in pure Python have the class itself."""
    kind = config.get('type', '')
    return kind.split('.')[-1] if isinstance(kind, str) else kind.__name__


def _held_in_memory(dataset: dict) -> Optional[Tuple[int, List[str]]]:
    """Size and modes of the images of a dataset that reads no files, as :func:`_resize` wants them."""
    if 'pipeline' in dataset:
        loads = any(_type_name(step) in _LOADING for step in dataset['pipeline'])
        return None if loads else _MMPRETRAINS.get(_type_name(dataset))
    kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
    if kind is None or not issubclass(kind, InMemoryDataset):
        return None
    size = kind.image_size(**{key: value for key, value in dataset.items() if key != 'type'})
    return None if size is None else (size, ['L', 'RGB'] if kind.grayscale else ['RGB'])


def _resize(image: np.ndarray, size: int, modes: List[str]) -> np.ndarray:
    """A BGR array as a square image, antialiased, RGB or grey."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    for mode in modes:
        picture = picture.convert(mode)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(picture)
