"""Checks of a config before a run, and one-line messages for the errors that mmengine raises for a wrong config."""
import inspect
import logging
import re
import sys
import traceback
from difflib import get_close_matches
from types import FrameType
from typing import Any, Iterable, Optional, Sequence, Tuple

import cv2
from mmcv.transforms import LoadImageFromFile
from mmengine import registry
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import Registry
from mmengine.registry.build_functions import build_from_cfg
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from mmengine.utils import ManagerMixin
from mmpretrain.datasets import CustomDataset
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from mmat.datasets.image_files import DATA_ROOT_HELP
from mmat.engine.loader_checks import no_batch_error
from mmat.errors import ConfigError, DataError, MissingFileError, UserError, did_you_mean

# Top-level keys that a run reads, whether or not a config sets them.
SETTINGS = {*inspect.signature(Runner.__init__).parameters, 'activation_checkpointing', 'compile', 'custom_imports',
            'efficient_conv_bn_eval', 'find_unused_parameters', 'model_wrapper_cfg', 'sync_bn',
            'tta_model', 'tta_pipeline'} - {'self', 'cfg'}

_REQUIRED = dict(train=('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
                 test=('model', 'test_dataloader', 'test_cfg', 'test_evaluator'))
_IMAGE_CAUSES = 'it is truncated, empty, not an image, or of a kind that OpenCV does not read'
# Arguments that the Runner adds to a config's.
_GIVEN = ('runner', 'dataloader', 'dataset', 'optimizer')

# Packages whose constructors check their arguments.
_LIBRARIES = {'mmcv', 'mmengine', 'mmpretrain', 'timm', 'torch', 'torchvision'}


def check_keys(config: Config) -> None:
    """Refuse misspelt top-level keys, and warn of others that nothing reads.

    A key is read if it is a setting of :class:`mmengine.runner.Runner`, begins with an underscore, is used by name in
    the config's files, or is a dict or list that is also a part of another setting.

    Raises:
        ConfigError: A key that nothing reads resembles a setting that the config lacks.
    """
    text = re.sub('#.*', '', config.text or '')
    for key in [key for key in config if key not in SETTINGS and not key.startswith('_')]:
        others = [value for other, value in config.items() if other != key]
        # A use is no assignment, no path and no assignment to an item.
        by_name = re.search(rf'(?<![\w./]){re.escape(key)}\b(?!\s*=[^=]|\s*\[|\.py)', text) or f'_base_.{key}' in text
        if by_name or config[key] and isinstance(config[key], (dict, list)) and any(
                _contains(value, config[key]) for value in others):
            continue
        suggestion = did_you_mean(key, SETTINGS - {*config}, cutoff=0.75)
        if suggestion:
            raise ConfigError(f'Unknown config key {key!r}.{suggestion} Start a name with an underscore to keep it.')
        print_log(f'Nothing reads the config key {key!r}.', 'current', logging.WARNING)


def _contains(value: Any, part: Any) -> bool:
    if value == part:
        return True
    children = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(_contains(child, part) for child in children)


def check_settings(config: Config, mode: str) -> None:
    """Check that a config has what a run needs.

    Args:
        config (Config): Complete.
        mode (str): 'train' or 'test'.

    Raises:
        ConfigError: A setting is missing or None, or has another type than it needs.
    """
    for key in _REQUIRED[mode]:
        if config.get(key) is None:
            state = 'is None' if key in config else 'is missing'
            raise ConfigError(f'The config cannot be used to {mode}: {key!r} {state}.' +
                              ('' if key in config else _misspelling(key, config)))
    for key in ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg',
                'optim_wrapper', 'default_hooks', 'env_cfg', 'randomness'):
        value = config.get(key, {})
        if not isinstance(value, dict) and (value is not None or key in ('env_cfg', 'randomness')):
            raise ConfigError(f'{key!r} must be a dict, got {value!r}.')
    for key in config.get('randomness', {}):
        names = [name for name in inspect.signature(Runner.set_randomness).parameters if name != 'self']
        if key not in names:
            raise ConfigError(f"'randomness' has no option {key!r}." + did_you_mean(key, names))
    level = config.get('log_level', 'INFO')
    if isinstance(level, str) and not isinstance(logging.getLevelName(level), int):
        levels = ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')
        raise ConfigError(f'Unknown log_level {level!r}.' + did_you_mean(level, levels))
    for phase in ('val', 'test'):
        keys = [f'{phase}_dataloader', f'{phase}_cfg', f'{phase}_evaluator']
        missing = [key for key in keys if config.get(key) is None]
        if missing and len(missing) < len(keys):
            raise ConfigError(f'Set all of {", ".join(keys)}, or none of them; not set: {", ".join(missing)}.')
    scope = config.get('default_scope')
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for part in ('dataset', 'sampler') if config.get(key) else ():
            if part not in config[key]:
                raise ConfigError(f'{key!r} has no {part!r}.' + _misspelling(part, config[key]))
        if config.get(key) and 'collate_fn' in config[key]:
            _check_function(config[key].collate_fn, f'{key}.collate_fn', scope)
    if mode == 'train' and 'optimizer' not in config.optim_wrapper and 'constructor' not in config.optim_wrapper:
        raise ConfigError("'optim_wrapper' has no 'optimizer'." + _misspelling('optimizer', config.optim_wrapper))
    if mode == 'train' and isinstance(config.optim_wrapper.get('optimizer'), dict):
        # mmengine looks the class up before it builds it.
        optimizer = config.optim_wrapper.optimizer.get('type')
        if not (callable(optimizer) or _is_registered(optimizer, registry.OPTIMIZERS, scope)):
            raise ConfigError(f'Unknown optimizer type {optimizer!r}.' +
                              did_you_mean(optimizer, _known_types(registry.OPTIMIZERS), cutoff=0.5))
    if mode == 'train' and ('type' in config.train_cfg) == ('by_epoch' in config.train_cfg):
        raise ConfigError("'train_cfg' needs one of 'by_epoch' and 'type', got "
                          f'{", ".join(map(repr, config.train_cfg)) or "neither"}.')


def _is_registered(name: Any, types: Registry, scope: Optional[str]) -> bool:
    """Whether a registry has a type, for a config of a default scope."""
    if not isinstance(name, str):
        return False
    if types.get(name) is not None:
        return True
    with types.switch_scope_and_registry(scope) as scoped:  # warns if the scope has no such registry
        return scoped.get(name) is not None


def _misspelling(name: str, config: dict) -> str:
    """A question about the key that may have been meant as ``name``."""
    close = get_close_matches(name, map(str, config), n=1, cutoff=0.6)
    return f' Is {close[0]!r} a misspelling?' if close else ''


def _check_function(config: Any, name: str, scope: Optional[str]) -> None:
    """Check a function of a config, which mmengine looks up without a message if there is none."""
    kind = config.get('type') if isinstance(config, dict) else config
    if not (callable(kind) or _is_registered(kind, registry.FUNCTIONS, scope)):
        raise ConfigError(f'{name} must be a dict with the `type` of a function, got {config!r}.' +
                          did_you_mean(kind, _known_types(registry.FUNCTIONS)))


def find_config_error(error: Exception) -> Optional[UserError]:
    """Translate an error of mmengine's builders or of mmpretrain's image loading into a message about config or data.

    An error belongs to the config if the builder itself raised it (no or an unknown ``type``, arguments that do not fit
    the signature), if a library's constructor refused its arguments, or if a dataset did not find a file. An error
    belongs to the data if LoadImageFromFile cannot read an image, or CustomDataset finds none. The place is read from
    the traceback's frames, not from the wording of the error.

    Args:
        error (Exception): As it was raised.

    Returns:
        UserError | None: None for every other error.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    codes = build_from_cfg.__code__, Runner.build_dataloader.__code__
    builders = [index for index, frame in enumerate(frames) if frame.f_code in codes]
    if not frames or builders and any(_is_users(frame) for frame in frames[builders[0]:]):
        return None
    while frames[-1].f_code.co_name == ManagerMixin.get_instance.__name__:
        frames.pop()  # build_from_cfg calls it in place of a constructor
    if frames[-1].f_code is build_from_cfg.__code__:
        return _builder_error(error, frames[-1].f_locals)
    if frames[-1].f_code.co_name == 'build_iter_from_epoch' and frames[-1].f_locals.get('epoch_length') == 0:
        runner = next(each for each in (frame.f_locals.get('self') for frame in frames) if isinstance(each, Runner))
        return no_batch_error(runner.train_dataloader, 'train_dataloader')
    image_error = _image_error(error, frames)
    if image_error:
        return image_error
    call = _direct_call(frames[-1])
    if call and isinstance(error, TypeError):
        return _signature_error(*call, _GIVEN)
    if not builders:
        return None
    built = frames[builders[-1]].f_locals
    cls, arguments = built.get('obj_cls', DataLoader), built.get('args') or built.get('dataloader_cfg', {})
    kind = getattr(built.get('registry'), 'name', None)
    if isinstance(error, FileNotFoundError) and error.filename and kind == 'dataset':
        return MissingFileError(f'{_name(cls)}: no file or folder {str(error.filename)!r}. {DATA_ROOT_HELP}')
    if frames[-1].f_code is CustomDataset._find_samples.__code__ and isinstance(error, (RuntimeError, AssertionError)):
        return DataError(f'{_name(cls)} with images in {str(frames[-1].f_locals["self"].img_prefix)!r}: {error}')
    if frames[-1].f_code is BaseDataset._serialize_data.__code__ and isinstance(error, ValueError):
        return DataError(f'{_name(cls)} has 0 images. Check its files and `indices`.')
    in_constructor = frames[-1].f_code.co_name == '__init__' and _is_library(type(frames[-1].f_locals.get('self')))
    if (in_constructor and _is_library(cls) and error.args
            and isinstance(error, (ValueError, TypeError, KeyError, AssertionError))):
        return _signature_error(cls, arguments, _GIVEN) or ConfigError(
            f'{_name(cls)}: {" ".join(str(error.args[0]).split())}')
    return None


def _image_error(error: Exception, frames: Sequence[FrameType]) -> Optional[UserError]:
    """Name the image that LoadImageFromFile cannot read, in this process or in a worker of a DataLoader."""
    load = LoadImageFromFile.transform.__code__
    if not isinstance(error, (AssertionError, OSError, cv2.error)):
        return None
    for frame in frames:
        if frame.f_code is load:
            path = frame.f_locals['filename']
            if isinstance(error, FileNotFoundError):
                return MissingFileError(f'No image {path!r}. {DATA_ROOT_HELP}')
            return DataError(f'LoadImageFromFile cannot read image {path!r}: {_IMAGE_CAUSES}.')
    # A worker passes on the text of its traceback. The last line names the file unless OpenCV raised the error.
    if frames[-1].f_code is ExceptionWrapper.reraise.__code__ and f'File "{load.co_filename}"' in str(error):
        return DataError(f'LoadImageFromFile cannot read an image ({str(error).strip().splitlines()[-1]}): '
                         f'{_IMAGE_CAUSES}. mmat.LoadImage names the file and the cause.')
    return None


def _is_users(frame: FrameType) -> bool:
    """Whether a frame runs code outside mmat, the libraries and Python itself."""
    package = frame.f_globals.get('__name__', '').split('.')[0]
    return package not in {'mmat', *_LIBRARIES, *sys.stdlib_module_names} - {'__main__'}


def _is_library(cls: type) -> bool:
    return cls.__module__.split('.')[0] in _LIBRARIES


def _direct_call(frame: FrameType) -> Optional[Tuple[type, dict]]:
    """Class and settings that a method of the Runner was about to call, for classes that need no ``type``."""
    scope = frame.f_locals
    calls = {
        Runner.build_train_loop: (EpochBasedTrainLoop if scope.get('by_epoch') else IterBasedTrainLoop, 'loop_cfg'),
        Runner.build_val_loop: (ValLoop, 'loop_cfg'),
        Runner.build_test_loop: (TestLoop, 'loop_cfg'),
        Runner.build_dataloader: (DataLoader, 'dataloader_cfg'),
    }
    return next(((cls, scope.get(name, {})) for method, (cls, name) in calls.items()
                 if frame.f_code is method.__code__), None)


def _builder_error(error: Exception, scope: dict) -> Optional[ConfigError]:
    config, kind = scope['cfg'], scope['registry'].name
    if not isinstance(config, dict):
        return ConfigError(f'A {kind} must be a dict with a `type`, got {config!r}.')
    if 'obj_type' not in scope:
        return ConfigError(f'A {kind} has no `type`: {_shorten(config)}.' + _misspelling('type', config))
    name = scope['obj_type']
    if scope.get('obj_cls') is None:
        if not isinstance(name, str):
            return ConfigError(f'The `type` of a {kind} must be a name or a class, got {name!r}.')
        return ConfigError(f'Unknown {kind} type {name!r}.' +
                           did_you_mean(name, _known_types(scope['registry']), cutoff=0.5))
    if isinstance(error, TypeError):
        return _signature_error(scope['obj_cls'], scope['args'])
    return None


def _signature_error(cls: type, arguments: dict, given: Sequence[str] = ()) -> Optional[ConfigError]:
    """Explain why arguments, beside those ``given`` by the caller, do not fit a constructor; None if they do."""
    parameters = inspect.signature(cls).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    # A class that takes **kwargs passes them to its base classes.
    classes: tuple = cls.__mro__[:-1] if takes_any and inspect.isclass(cls) else ()
    names = [*parameters, *(name for each in classes for name in inspect.signature(each.__init__).parameters)]
    names = [name for name in dict.fromkeys(names) if name not in ('self', 'args', 'kwargs', *given)]
    for argument in arguments:
        if argument not in (*names, *given, 'type'):
            choices = did_you_mean(argument, names) or f' Its arguments: {", ".join(names) or "none"}.'
            return ConfigError(f'{_name(cls)} has no argument {argument!r}.{choices}')
    missing = [name for name, each in parameters.items() if each.default is each.empty
               and name not in (*arguments, *given) and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return ConfigError(f'{_name(cls)} needs {", ".join(map(repr, missing))}.') if missing else None


def _known_types(of: Registry) -> Iterable[str]:
    """Names of all types of a registry, its parents and their children, with their scopes."""
    roots = [each for each in vars(registry).values() if isinstance(each, Registry) and each.name == of.name] or [of]
    for root in roots:
        for each in (root, *root.children.values()):
            yield from (name if each is root else f'{each.scope}.{name}' for name in each.module_dict)


def _name(cls: Any) -> str:
    return getattr(cls, '__name__', str(cls))


def _shorten(config: dict, length: int = 80) -> str:
    text = ' '.join(str(dict(config)).split())
    return text if len(text) <= length else f'{text[:length]}...'
