"""What the tools that measure, draw and publish have in common: a config as argument, and files that are whole."""
import argparse
import io
import json
from pathlib import Path
from typing import Sequence, Union

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmat.apis.launch import SettingsAction, merge_options
from mmat.engine import AtomicBackend
from mmat.utils.zoo import find_config

PICTURES = ('.png', '.pdf', '.svg')


def add_config_arguments(parser: argparse.ArgumentParser, example: str = 'model.backbone.depth=22') -> None:
    """Add ``config`` and ``--cfg-options``; ``example`` is one of the latter, for the help."""
    parser.add_argument('config', help='config file, or a name from mmat.list_models()')
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction, metavar='KEY=VALUE',
                        help=f'override settings of the config, such as {example}')


def read_config(args: argparse.Namespace) -> Config:
    """The config of a command line, its ``--cfg-options`` in it; types without a prefix are of its scope.

    Raises:
        FileNotFoundError: There is none; the message names the closest.
    """
    config = Config.fromfile(find_config(args.config))
    merge_options(config, args.cfg_options)
    init_default_scope(config.get('default_scope') or 'mmpretrain')
    return config


def check_suffix(path: Union[str, Path], suffixes: Sequence[str], option: str) -> None:
    """Say so now, before the work is done, where a file cannot be written under its name.

    Raises:
        ValueError: The name ends in none of the suffixes.
    """
    if Path(path).suffix not in suffixes:
        ending = f'{", ".join(suffixes[:-1])} or {suffixes[-1]}' if len(suffixes) > 1 else suffixes[0]
        raise ValueError(f'{option} must end in {ending}, got {str(path)!r}')


def write_figure(figure, path: Union[str, Path]) -> None:
    """Write a matplotlib figure in the format that the name ends in; whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:], bbox_inches='tight', pad_inches=0.08)
    AtomicBackend().put(buffer.getvalue(), path)


def write_picture(picture: np.ndarray, path: Union[str, Path]) -> None:
    """Write RGB pixels, shape (H, W, 3), uint8 or floats in [0, 1], as a PNG; whole or not at all."""
    from matplotlib.image import imsave
    buffer = io.BytesIO()
    if picture.dtype != np.uint8:
        picture = (np.asarray(picture) * 255).round().astype(np.uint8)  # matplotlib would cut off
    imsave(buffer, np.ascontiguousarray(picture), format='png')
    AtomicBackend().put(buffer.getvalue(), path)


def write_json(content: Union[dict, list], path: Union[str, Path]) -> None:
    """Write plain values as JSON; whole or not at all."""
    AtomicBackend().put((json.dumps(content, indent=1) + '\n').encode(), path)
