"""Export of checkpoints for release."""
import datetime
import hashlib
import io
from collections import OrderedDict
from pathlib import Path
from typing import Optional, Union

import torch
from mmengine.config import Config

from mmat.engine import AtomicBackend
from mmat.errors import CheckpointError, FileError
from mmat.models import build_network, network_config
from mmat.utils.checkpoint import load_state, read_checkpoint, strip_module_prefix
from mmat.version import __version__

# Entries of the checkpoint's `meta` that are published.
_META_KEYS = ('epoch', 'iter', 'seed', 'dataset_meta', 'mmengine_version')


def publish_checkpoint(source: Union[str, Path],
                       target: Union[str, Path],
                       config: Optional[Config] = None,
                       half: bool = False,
                       ema: bool = True,
                       date: Optional[datetime.date] = None) -> Path:
    """Export a checkpoint for release, with ``state_dict`` and ``meta`` of tensors and plain values only.

    For a distillation run, the student is exported. Optimizer, RNG states, logs, weights of transfer heads and the
    training config with its paths are left out. Equal weights give equal bytes.

    Args:
        source (str | Path): A checkpoint file, or a work directory for its last checkpoint.
        target (str | Path): File to write. Date and hash are added to its name, as in mmpretrain:
            ``{stem}_{YYYYMMDD}-{first 8 digits of the SHA-256 of its bytes}.pth``.
        config (Config, optional): Config whose network the weights must fit. The part that builds the network (the
            student of a distillation config) is saved as ``meta['cfg']``. Defaults to None: no check and no ``cfg``.
        half (bool): Round floating point weights to float16, which halves the size. Defaults to False.
        ema (bool): Export the averaged weights of a run with mmengine's EMAHook, not the trained ones. Defaults to
            True.
        date (date, optional): Date in the name. Defaults to None, today.

    Returns:
        Path: The written file.

    Raises:
        MissingFileError: The checkpoint does not exist.
        CheckpointError: The checkpoint is unreadable, has no weights, does not fit the config's network, has values
            outside the range of float16, or has no averaged weights for ``ema=False``.
        FileError: Another file of this name exists.
    """
    checkpoint = read_checkpoint(source)
    state = _read_state(checkpoint, ema, repr(str(source)))
    if config is not None:
        load_state(build_network(config), state, repr(str(source)))
    if half:
        state = OrderedDict((key, _to_half(key, value)) for key, value in state.items())
    meta = checkpoint.get('meta') or {}
    content = dict(meta=dict({key: meta[key] for key in _META_KEYS if key in meta}, mmat_version=__version__),
                   state_dict=state)
    if config is not None:
        content['meta']['cfg'] = _network_config_text(config)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    torch.load(io.BytesIO(data), weights_only=True)  # raises if `meta` holds more than plain values
    target, date = Path(target), date or datetime.date.today()
    name = target.stem if target.suffix == '.pth' else target.name
    path = target.with_name(f'{name}_{date:%Y%m%d}-{hashlib.sha256(data).hexdigest()[:8]}.pth')
    if path.exists():
        if path.read_bytes() == data:
            return path
        raise FileError(f'{str(path)!r} exists with other content. Delete it or choose another name.')
    AtomicBackend().put(data, path)
    return path


def _read_state(checkpoint: dict, ema: bool, source: str) -> OrderedDict:
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, dict) or not state or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
        raise CheckpointError(f'{source} holds no state_dict.')
    state = strip_module_prefix(state)
    if not ema:
        if 'ema_state_dict' not in checkpoint:
            raise CheckpointError(f'{source} holds no averaged weights (EMA). Omit ema=False (--no-ema).')
        # mmengine's EMAHook saves the averaged weights as `state_dict` and the trained ones as `ema_state_dict`.
        state = {**state, **{key: value for key, value in strip_module_prefix(checkpoint['ema_state_dict']).items()
                             if key in state}}
    # torch saves the whole storage of a view, and its strides.
    return OrderedDict((key, value.detach().clone(memory_format=torch.contiguous_format))
                       for key, value in state.items())


def _to_half(key: str, value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not torch.equal(half.isfinite(), value.isfinite()):
        raise CheckpointError(f'{key} has values up to {value.abs().max():g}, outside the range of float16. Publish it '
                              'with half=False (without --half).')
    return half


def _network_config_text(config: Config) -> str:
    """Return the text of a config with the model only, without paths of the training machine."""
    model = network_config(config)
    return Config(dict(default_scope=config.get('default_scope'), model=model)).pretty_text
