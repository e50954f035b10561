"""The attention of several networks on the same images."""
from typing import Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.config import Config
from torch import Tensor

from mmat.apis.image_pipeline import build_image_pipeline
from mmat.apis.images import list_images, read_image, unique_stems
from mmat.models import get_attention_maps
from mmat.models.distillers import Teacher
from mmat.models.taps import Layer
from mmat.models.targets import class_names, label_names
from mmat.visualization import short_names

from .samples import build_dataset, read_batch, spread


def pictures_from_files(config: Config, paths: Sequence[str]) -> Tuple[Tensor, List[str]]:
    """Pictures after the test pipeline of a config.

    Args:
        config (Config): See :func:`mmat.apis.image_pipeline.build_image_pipeline`.
        paths (Sequence[str]): Files, URLs, folders of pictures.

    Returns:
        tuple: Images as the network's preprocessor takes them, shape (N, C, H, W), and their names.

    Raises:
        FileNotFoundError, OSError, ValueError: A picture that is not there or cannot be read, or pictures that the
            pipeline leaves at different sizes.
    """
    pipeline, _ = build_image_pipeline(config)
    sources = list_images(list(paths))
    return _stack([pipeline(read_image(source))['inputs'] for source in sources]), unique_stems(sources)


def pictures_from_dataset(config: Config, phase: str, count: int) -> Tuple[Tensor, List[str]]:
    """Images at equal distances of a dataset of a config, without augmentation where it is held in memory.

    Args:
        config (Config): With ``{phase}_dataloader``.
        phase (str): 'train', 'val' or 'test'.
        count (int): How many.

    Returns:
        tuple: As of :func:`pictures_from_files`; the names are the classes, where the dataset knows them.
    """
    dataset = build_dataset(config, phase)
    batch, _ = read_batch(config, phase, dataset, spread(count, len(dataset)))
    return _stack(list(batch['inputs'])), label_names(batch, class_names(dataset))


def _stack(images: List[Tensor]) -> Tensor:
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise ValueError('these pictures have different sizes after the test pipeline, so they cannot be drawn in one '
                         f'table: {", ".join(map(str, sorted(sizes)))}')
    return torch.stack(images)


def compare_attention(networks: Dict[str, Tuple[nn.Module, Optional[Sequence[Layer]]]],
                      images: Tensor) -> Dict[str, Dict[str, Tensor]]:
    """Attention maps of networks on one batch.

    Args:
        networks (dict): Name -> network, and the layers to look at (None for its attention maps or stages). The
            channels of ``images`` are in the first one's order.
        images (Tensor): As the first network's preprocessor takes them, shape (N, C, H, W).

    Returns:
        dict: Name -> layer -> maps of shape (N, h, w), for :func:`mmat.visualization.draw_attention_grid`. Layers are
        called without their first word where that is clear.
    """
    attention, turned = {}, None
    for name, (network, layers) in networks.items():
        turns = bool(getattr(network.data_preprocessor, 'to_rgb', False))
        turned = turns if turned is None else turned
        maps = get_attention_maps(network, images if turns == turned else images.flip(1), layers)
        attention[name] = short_names(maps)
    return attention


def read_teacher(config: Config) -> Tuple[nn.Module, Optional[list], Optional[list]]:
    """The trained teacher of a distillation config, and where its heads compare the networks.

    Returns:
        tuple: The network; layers of the student, and of the teacher, each once, None where no head names any.

    Raises:
        ValueError: The config has no teacher.
        FileNotFoundError: Its checkpoint is not there.
    """
    teacher = config.model.get('teacher')
    if not teacher:
        raise ValueError('the config has no teacher: it is not of a distillation, or its heads need none')
    pairs = [pair for head in config.model.get('at_heads', ()) for pair in head.get('pairs') or ()]
    student_layers, teacher_layers = (list(dict.fromkeys(side)) for side in zip(*pairs)) if pairs else (None, None)
    return Teacher.of(teacher).network, student_layers, teacher_layers
