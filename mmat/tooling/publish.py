"""Checkpoints for others: the weights, what is to know of them, and nothing else."""
import datetime
import hashlib
import io
from collections import OrderedDict
from pathlib import Path
from typing import Optional, Union

import torch
from mmengine.config import Config

from mmat.engine import AtomicBackend
from mmat.models import build_network, network_config
from mmat.utils.checkpoint import load_state, read_checkpoint, strip_module_prefix
from mmat.version import __version__

# What is taken over from the checkpoint's `meta`, where it is there.
_KEPT = ('epoch', 'iter', 'seed', 'dataset_meta', 'mmengine_version')


def publish_checkpoint(source: Union[str, Path],
                       target: Union[str, Path],
                       config: Optional[Config] = None,
                       half: bool = False,
                       ema: bool = True,
                       date: Optional[datetime.date] = None) -> Path:
    """Write what of a checkpoint is to be handed on: ``state_dict`` and ``meta``, tensors and plain values only.

    Of a distillation run that is the student. Optimizer, random states, logs, the heads' own weights and the config of
    the training, with its paths, stay behind. The same weights give the same bytes.

    Args:
        source (str | Path): A checkpoint file, or a work directory, which means its last checkpoint.
        target (str | Path): The file to write, but that date and hash come into its name, as mmpretrain names files:
            ``{stem}_{YYYYMMDD}-{first 8 digits of the SHA-256 of its bytes}.pth``.
        config (Config, optional): Whose network the weights must fit; the part of it that builds the network goes into
            ``meta['cfg']``, of a distillation config the student's. Defaults to None: not checked, and no ``cfg``.
        half (bool): Store floating point weights in float16, half as large and rounded. Defaults to False.
        ema (bool): Of a run with mmengine's EMAHook take the averaged weights, otherwise those that were trained.
            Defaults to True.
        date (date, optional): Defaults to None, today.

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError, ValueError: As :func:`mmat.utils.checkpoint.read_checkpoint`.
        ValueError: Weights that are not the config's network's, that float16 cannot hold, or none.
        FileExistsError: There is another file of this name.
    """
    checkpoint = read_checkpoint(source)
    state = _weights(checkpoint, ema, repr(str(source)))
    if config is not None:
        # Before they are rounded, for the messages.
        load_state(build_network(config), state, repr(str(source)))
    if half:
        state = OrderedDict((key, _to_half(key, value)) for key, value in state.items())
    meta = checkpoint.get('meta') or {}
    content = dict(meta=dict({key: meta[key] for key in _KEPT if key in meta}, mmat_version=__version__),
                   state_dict=state)
    if config is not None:
        content['meta']['cfg'] = _network_text(config)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    torch.load(io.BytesIO(data), weights_only=True)  # raises where `meta` held more than plain values
    target, date = Path(target), date or datetime.date.today()
    name = target.stem if target.suffix == '.pth' else target.name
    path = target.with_name(f'{name}_{date:%Y%m%d}-{hashlib.sha256(data).hexdigest()[:8]}.pth')
    if path.exists():
        if path.read_bytes() == data:
            return path
        raise FileExistsError(f'{str(path)!r} is there already, with other content')
    AtomicBackend().put(data, path)
    return path


def _weights(checkpoint: dict, ema: bool, source: str) -> OrderedDict:
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, dict) or not state or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
        raise ValueError(f'{source} holds no state_dict')
    state = strip_module_prefix(state)
    if not ema:
        if 'ema_state_dict' not in checkpoint:
            raise ValueError(f'{source} is not of a run with averaged weights (EMA), so --no-ema has no meaning')
        # mmengine's EMAHook saves the averaged weights as `state_dict`, and those that were trained in their place.
        state = {**state, **{key: value for key, value in strip_module_prefix(checkpoint['ema_state_dict']).items()
                             if key in state}}
    # Of views, torch saves all that they look into, and of strides what they happen to be.
    return OrderedDict((key, value.detach().clone(memory_format=torch.contiguous_format))
                       for key, value in state.items())


def _to_half(key: str, value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not torch.equal(half.isfinite(), value.isfinite()):
        raise ValueError(f'{key} has values up to {value.abs().max():g}, which float16 cannot hold: publish it without '
                         '--half')
    return half


def _network_text(config: Config) -> str:
    """The model of a config as text that is a config again."""
    model = network_config(config)
    # Not the folders of whoever trained it.
    return Config(dict(default_scope=config.get('default_scope'), model=model)).pretty_text
