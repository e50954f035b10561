"""Turn a single image into a network's input, by the test pipeline of its config."""
from typing import Callable, List, Optional, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from mmat.datasets import InMemoryDataset
from mmat.errors import ConfigError
from mmat.registry import DATASETS

# Steps that read files.
_LOADING = ('LoadImageFromFile', 'LoadImage')
# Image size and Pillow modes of mmpretrain's datasets that hold their images in memory.
_MMPRETRAIN_FORMATS = dict(
    CIFAR10=(32, ['RGB']), CIFAR100=(32, ['RGB']), MNIST=(28, ['L']), FashionMNIST=(28, ['L']))


def build_image_pipeline(config: Config) -> Tuple[Callable[[np.ndarray], dict], bool]:
    """Build a config's test pipeline for images that are already read.

    Steps that load files are left out, and so are bounding boxes, which only a dataset has. If the dataset holds its
    images in memory, the whole image is first resized to their size with antialiasing, and converted to gray if they
    are gray.

    Args:
        config (Config): Has a ``test_dataloader`` or a ``val_dataloader``, the former first. Its data is not read.

    Returns:
        tuple: A function from an array of shape (H, W, 3), uint8, BGR, to a dict of ``inputs``, (C, H, W), and
        ``data_samples``, as from the config's loader; and True if the ``inputs`` are BGR.

    Raises:
        ConfigError: The config has neither a pipeline nor a dataset in memory of known image size.
    """
    loader = config.get('test_dataloader') or config.get('val_dataloader') or {}
    dataset = loader.get('dataset') or {}
    while 'pipeline' not in dataset and ('dataset' in dataset or dataset.get('datasets')):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    image_format = _in_memory_format(dataset)
    if image_format is None and 'pipeline' not in dataset:
        raise ConfigError('Cannot build an image pipeline from the config: test_dataloader needs a dataset with a '
                          'pipeline, or one in memory whose class defines image_size, got '
                          f'{_type_name(dataset) or "no dataset"}.')
    # Types without a prefix belong to the config's own scope, whatever the current one is.
    scope = config.get('default_scope') if 'pipeline' in dataset else None
    with DefaultScope.overwrite_default_scope(scope or 'mmpretrain'):
        steps = dataset.get('pipeline', [dict(type='mmpretrain.PackInputs')])
        steps = Compose([TRANSFORMS.build(step) for step in steps
                         if _type_name(step) not in (*_LOADING, 'CropBoundingBox')])

    def prepare(image: np.ndarray) -> dict:
        if image_format is not None:
            image = _resize(image, *image_format)
        return steps(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2]))

    return prepare, image_format is None


def _type_name(config: dict) -> str:
    """Return the type of a config without its prefix. Configs in pure Python have the class itself."""
    kind = config.get('type', '')
    return kind.split('.')[-1] if isinstance(kind, str) else kind.__name__


def _in_memory_format(dataset: dict) -> Optional[Tuple[int, List[str]]]:
    """Return ``size`` and ``modes`` of :func:`_resize` for a dataset in memory, None for one that reads files."""
    if 'pipeline' in dataset:
        loads = any(_type_name(step) in _LOADING for step in dataset['pipeline'])
        return None if loads else _MMPRETRAIN_FORMATS.get(_type_name(dataset))
    kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
    if kind is None or not issubclass(kind, InMemoryDataset):
        return None
    size = kind.image_size(**{key: value for key, value in dataset.items() if key != 'type'})
    return None if size is None else (size, ['L', 'RGB'] if kind.grayscale else ['RGB'])


def _resize(image: np.ndarray, size: int, modes: List[str]) -> np.ndarray:
    """Resize a BGR array to a square image, antialiased, RGB or gray. The Pillow ``modes`` are applied in order."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    for mode in modes:
        picture = picture.convert(mode)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(picture)
