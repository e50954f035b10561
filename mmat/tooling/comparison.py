"""Attention maps of several networks on the same images."""
from typing import Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.config import Config
from torch import Tensor

from mmat.apis.image_pipeline import build_image_pipeline
from mmat.apis.images import list_images, read_image, unique_stems
from mmat.errors import ConfigError, DataError
from mmat.models import get_attention_maps
from mmat.models.distillers import Teacher, teachers_of
from mmat.models.normalization import loaded_order
from mmat.models.taps import Layer
from mmat.models.targets import class_names, label_names
from mmat.visualization import Photograph, short_names, take_photograph

from .samples import build_dataset, read_photographs, spaced_indices

Pictures = Tuple[Tensor, List[str], List[Optional[Photograph]]]


def pictures_from_files(config: Config, paths: Sequence[str]) -> Pictures:
    """Read pictures and apply the config's test pipeline.

    Args:
        config (Config): See :func:`mmat.apis.image_pipeline.build_image_pipeline`.
        paths (Sequence[str]): Files, URLs, folders of pictures.

    Returns:
        tuple: Images for the network's preprocessor, shape (N, C, H, W); their names; and the photographs, None for
        one that the pipeline distorts.

    Raises:
        MissingFileError: A picture does not exist.
        FileError: A picture cannot be read.
        DataError: The pictures differ in size after the pipeline.
    """
    pipeline, _ = build_image_pipeline(config)
    sources = list_images(list(paths))
    inputs, photographs = [], []
    for image in map(read_image, sources):
        photographs.append(take_photograph(image, lambda each: pipeline(each)['inputs'], is_bgr=True))
        inputs.append(pipeline(image)['inputs'])
    return _stack(inputs), unique_stems(sources), photographs


def pictures_from_dataset(config: Config, phase: str, count: int, preprocessor: nn.Module) -> Pictures:
    """Read equally spaced images of a config's dataset, without augmentation if it is held in memory.

    Args:
        config (Config): Config with ``{phase}_dataloader``.
        phase (str): 'train', 'val' or 'test'.
        count (int): Number of images.
        preprocessor (nn.Module): Data preprocessor of the network, which knows the channel order of the images.

    Returns:
        tuple: Images for the network's preprocessor, shape (N, C, H, W); their classes, empty if the dataset has no
        labels; and the photographs, see :func:`mmat.tooling.samples.read_photographs`.
    """
    dataset = build_dataset(config, phase)
    batch, photographs = read_photographs(config, phase, dataset, spaced_indices(count, len(dataset)),
                                          loaded_order(preprocessor) == 'bgr')
    return _stack(list(batch['inputs'])), label_names(batch, class_names(dataset)), photographs


def _stack(images: List[Tensor]) -> Tensor:
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise DataError('The pictures must have the same size after the test pipeline, got '
                        f'{", ".join(map(str, sorted(sizes)))}. Draw them separately.')
    return torch.stack(images)


def compute_attention(networks: Dict[str, Tuple[nn.Module, Optional[Sequence[Layer]]]],
                      images: Tensor) -> Dict[str, Dict[str, Tensor]]:
    """Compute the attention maps of several networks on one batch.

    Args:
        networks (dict): Name -> network and layers. Layers None means its attention maps or stages.
        images (Tensor): Images for the first network's preprocessor, shape (N, C, H, W). Channels are reversed for
            networks that expect the other order.

    Returns:
        dict: Name -> layer -> maps of shape (N, h, w), for :func:`mmat.visualization.draw_attention_grid`, with layer
        names from :func:`mmat.visualization.short_names`.
    """
    attention, known = {}, None
    for name, (network, layers) in networks.items():
        order = loaded_order(network.data_preprocessor)
        known = known or order  # the images' order, from the first network that defines one
        maps = get_attention_maps(network, images.flip(1) if order not in (None, known) else images, layers)
        attention[name] = short_names(maps)
    return attention


def load_teachers(config: Config) -> Tuple[Optional[list], Dict[str, Tuple[nn.Module, Optional[list]]]]:
    """Load the teachers of a distillation config.

    Returns:
        tuple: The student's layers that heads compare, without duplicates, or None if no head names any; and name of a
        teacher -> network, likewise its layers.

    Raises:
        ConfigError: The config has no teacher.
        MissingFileError: A teacher's checkpoint does not exist.
    """
    teachers = teachers_of(config.model)
    if not teachers:
        raise ConfigError('The config has no model.teacher. Use a distillation config whose heads need a teacher.')
    heads = config.model.get('at_heads', ())
    networks = {}
    for name, teacher in teachers.items():
        layers = [pair[1] for head in heads if head.get('teacher') in (None, name) for pair in head.get('pairs') or ()]
        networks[name] = Teacher.from_config(teacher, name).network, list(dict.fromkeys(layers)) or None
    student_layers = [pair[0] for head in heads for pair in head.get('pairs') or ()]
    return list(dict.fromkeys(student_layers)) or None, networks
