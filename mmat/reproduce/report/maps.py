"""Attention maps of the networks of a table, for the same test images."""
import io
import math
import textwrap
from dataclasses import dataclass, field
from typing import Dict, List, Set, Tuple

import numpy as np
from mmengine.config import Config

from mmat.utils.zoo import find_config

from ..run import Run
from .content import Content, Group

# Number of images, one below the other, and of maps side by side (more only if a single network has more).
_IMAGES = 4
_MAPS = 10


@dataclass
class Maps:
    """The attention maps of a group.

    Attributes:
        png (bytes): The picture; empty if there is none.
        width (int): In pixels.
        height (int): In pixels.
        networks (list[str]): Names of the networks shown.
        images (list[str]): Classes of the images shown.
        missing (list[str]): A sentence for each network that is not shown, with the reason.
    """
    png: bytes = b''
    width: int = 0
    height: int = 0
    networks: List[str] = field(default_factory=list)
    images: List[str] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)


def draw_maps(content: Content) -> Dict[Group, Maps]:
    """Draw the attention maps of each group's finished networks: first seed, teachers first.

    If the data or a checkpoint is missing, the result gives the reason instead.
    """
    drawn: Dict[Group, Maps] = {}
    pictures: dict = {}
    shown: List[Set[Run]] = []
    for group in content.groups:
        networks = _networks(group, content)
        drawn[group] = Maps()
        # Skip a group whose networks have all been shown: columns may share runs, and rows may share a student.
        if not any(set(networks.values()) <= runs for runs in [set(), *shown]):
            _draw(networks, content, pictures, drawn[group])
            shown.append(set(networks.values()))
    return drawn


def _networks(group: Group, content: Content) -> Dict[str, Run]:
    """Return name -> run of the networks to show."""
    networks, teachers = {}, {}
    for cell in group.cells:
        if cell.runs and cell.runs[0] in content.results:
            networks[cell.label] = cell.runs[0]
        for run in cell.runs[:1]:
            if run.teacher in content.results:
                teachers.setdefault(run.teacher, f'teacher {run.teacher.name}' if teachers else 'teacher')
    own = {run: label for label, run in networks.items()}
    return {**{own.get(run, name): run for run, name in teachers.items()}, **networks}


def _draw(networks: Dict[str, Run], content: Content, pictures: dict, maps: Maps) -> None:
    # These take seconds to import, and a table without finished runs does not need them.
    from mmat.apis import get_model
    from mmat.models.denormalize import denormalize
    from mmat.tooling.comparison import compute_attention
    from mmat.visualization import with_photographs
    models = {}
    for label, run in networks.items():
        file = run.work_dir / content.results[run]['checkpoint']
        try:
            if not file.is_file():
                raise FileNotFoundError(f'checkpoint {file.name} is missing')
            models[label] = get_model(run.config, pretrained=str(file)), None
        except Exception as error:  # a damaged checkpoint must not prevent the report
            maps.missing.append(f'{label} is not shown: {_first_line(error)}')
    if not models:
        return
    try:
        run = networks[next(iter(models))]
        config = Config.fromfile(find_config(run.config))
        config.merge_from_dict(run.options)  # such as the location of the data
        first, _ = next(iter(models.values()))
        images, titles, photographs = _images(config, pictures, first.data_preprocessor)
        shown = with_photographs(denormalize(first.data_preprocessor, dict(inputs=images)), photographs)
        attention = compute_attention(models, images)
        maps.png, maps.width, maps.height = _render(shown, attention, titles)
    except Exception as error:  # datasets raise different errors for missing files
        maps.missing.append(f'No attention maps: {_first_line(error)}')
        return
    maps.networks, maps.images = list(models), titles


def _images(config: Config, pictures: dict, preprocessor) -> tuple:
    """Return test images, their classes and photographs, read once for all groups of a dataset."""
    from mmat.tooling.comparison import pictures_from_dataset
    key = str(config.test_dataloader.dataset)
    if key not in pictures:
        pictures[key] = pictures_from_dataset(config, 'test', _IMAGES, preprocessor)
    return pictures[key]


def _render(images, attention: Dict[str, dict], titles: List[str]) -> Tuple[bytes, int, int]:
    """Return a PNG, its width and its height; networks that do not fit in a line continue below."""
    from PIL import Image

    from mmat.visualization import render_attention_grid
    count = sum(map(len, attention.values()))
    share = count / max(1, math.ceil(count / _MAPS))
    lines: List[dict] = [{}]
    for name, layers in attention.items():
        if lines[-1] and sum(map(len, lines[-1].values())) + len(layers) > share * 1.01:
            lines.append({})
        lines[-1][_title(name, len(layers))] = layers
    titles = [_literal(textwrap.shorten(title.split(',')[0], 14, placeholder='…')) for title in titles]
    grids = [render_attention_grid(images, line, titles) for line in lines]
    whole = np.full((sum(map(len, grids)), max(grid.shape[1] for grid in grids), 3), 255, np.uint8)
    top = 0
    for grid in grids:
        whole[top:top + len(grid), :grid.shape[1]] = grid
        top += len(grid)
    file = io.BytesIO()
    # A palette needs a third of the bytes, without a visible difference.
    Image.fromarray(whole).quantize(256, dither=Image.Dither.NONE).save(file, 'PNG', optimize=True)
    return file.getvalue(), whole.shape[1], whole.shape[0]


def _title(name: str, layers: int) -> str:
    """Shorten a network's name to the width of its maps."""
    lines = textwrap.wrap(name, 13 * layers + 2, max_lines=2, placeholder='…')
    return _literal('\n'.join(lines))


def _literal(text: str) -> str:
    """Escape dollar signs, which start a formula in matplotlib."""
    return text.replace('$', r'\$')


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
