"""Config arguments and atomic output files of the command lines."""
import argparse
import io
import json
from pathlib import Path
from typing import Sequence, Union

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmat.apis.launch import SettingsAction
from mmat.apis.launch import read_config as read_config_file
from mmat.engine import AtomicBackend
from mmat.errors import UserError

FIGURE_SUFFIXES = ('.png', '.pdf', '.svg')


def add_config_arguments(parser: argparse.ArgumentParser, example: str = 'model.backbone.depth=22') -> None:
    """Add ``config`` and ``--cfg-options``, with an example of an option for the help."""
    parser.add_argument('config', help='config file or a name from mmat.list_models()')
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction, metavar='KEY=VALUE',
                        help=f'override settings of the config, such as {example}')


def read_config(args: argparse.Namespace) -> Config:
    """Read the config of a command line, merge its ``--cfg-options``, and set its default scope.

    Raises:
        MissingFileError: No such config.
        ConfigError: The config has a syntax error or an unknown key, or an option does not fit it.
    """
    config = read_config_file(args.config, args.cfg_options)
    init_default_scope(config.get('default_scope') or 'mmpretrain')
    return config


def check_suffix(path: Union[str, Path], suffixes: Sequence[str], option: str) -> None:
    """Check the suffix of an output file before any work is done.

    Raises:
        UserError: The path ends in none of the suffixes.
    """
    if Path(path).suffix not in suffixes:
        expected = f'{", ".join(suffixes[:-1])} or {suffixes[-1]}' if len(suffixes) > 1 else suffixes[0]
        raise UserError(f'{option} must end in {expected}, got {str(path)!r}.')


def write_figure(figure, path: Union[str, Path]) -> None:
    """Write a matplotlib figure atomically, in the format of the path's suffix."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:], bbox_inches='tight', pad_inches=0.08)
    AtomicBackend().put(buffer.getvalue(), path)


def write_picture(picture: np.ndarray, path: Union[str, Path]) -> None:
    """Write RGB pixels, shape (H, W, 3), uint8 or floats in [0, 1], atomically as a PNG."""
    from matplotlib.image import imsave
    buffer = io.BytesIO()
    if picture.dtype != np.uint8:
        picture = (np.asarray(picture) * 255).round().astype(np.uint8)  # matplotlib would truncate
    imsave(buffer, np.ascontiguousarray(picture), format='png')
    AtomicBackend().put(buffer.getvalue(), path)


def write_json(content: Union[dict, list], path: Union[str, Path]) -> None:
    """Write plain values atomically as JSON."""
    AtomicBackend().put((json.dumps(content, indent=1) + '\n').encode(), path)
