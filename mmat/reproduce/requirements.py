"""Datasets, packages and weights that runs need, checked before the first run starts."""
import importlib.util
import inspect
import os
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset, ImageNet

from mmat.datasets import CIFAR10, CIFAR100, CUB, Digits, IndoorScenes67
from mmat.errors import UserError
from mmat.models.build import network_config
from mmat.models.distillers import Teacher, teachers_of
from mmat.registry import DATASETS, MODELS
from mmat.utils.checkpoint import find_checkpoint
from mmat.utils.zoo import find_config

from .run import Run

_IMAGENET = ('. Expected train/<class>/*.JPEG, and val/<class>/*.JPEG or val/*.JPEG with meta/val.txt, in {!r}. '
             'Download ImageNet from https://www.image-net.org/download.php, or set data_root to another folder')


def missing_requirements(runs: Iterable[Run]) -> List[str]:
    """List the datasets, packages and weights that runs need and that are missing.

    The check is quick: it finds files, but does not read them. Weights at URLs are not missing, see
    :func:`pending_downloads`.

    Args:
        runs (Iterable[Run]): The runs, teachers included. Runs that are done need nothing.

    Returns:
        list[str]: One message for each missing item: its name, the expected location, how to get it, and the configs
        that need it.

    Raises:
        UserError: A teacher has no checkpoint and is not trained here.
    """
    checked: dict = {}  # each dataset is checked once
    return _merge((run, [*_missing_data(config, checked), *_missing_packages(config), *_missing_weights(config, run)])
                  for run, config in _distinct_configs(runs))


def pending_downloads(runs: Iterable[Run]) -> List[str]:
    """List the weights that runs will download.

    Args:
        runs (Iterable[Run]): See :func:`missing_requirements`.

    Returns:
        list[str]: One message for each file that is not in the cache: its URL, the cache folder, and the configs that
        need it.
    """
    cache = Path(torch.hub.get_dir()).absolute() / 'checkpoints'
    return _merge((run, [f'{path} will be downloaded to {str(cache)!r}' for _, path in _initial_weights(config, run)
                         if _is_remote(path) and not (cache / Path(path).name).is_file()])
                  for run, config in _distinct_configs(runs))


def _distinct_configs(runs: Iterable[Run]) -> Iterator[Tuple[Run, Config]]:
    """Yield one unfinished run of each config, with its config."""
    for run in {(run.config, repr(run.options)): run for run in runs if not run.result}.values():
        config = Config.fromfile(find_config(run.config))
        config.merge_from_dict(run.options)
        yield run, config


def _merge(messages: Iterable[Tuple[Run, List[str]]]) -> List[str]:
    """Return each message once, followed by the configs that it is about."""
    names: Dict[str, List[str]] = {}
    for run, of_run in messages:
        for message in dict.fromkeys(of_run):
            names.setdefault(message, []).append(run.name)
    return [f'{message}. Needed by {", ".join(each[:3])}' + (f' and {len(each) - 3} more' if each[3:] else '')
            for message, each in names.items()]


def _error_message(check: Callable[[], object]) -> Optional[str]:
    """Return the message of a UserError or ImportError that a check raises."""
    try:
        check()
    except (UserError, ImportError) as error:
        return str(error).rstrip('.')
    return None


def _is_remote(path: str) -> bool:
    return '://' in path or path.startswith('s3:')


# Datasets

def _missing_data(config: Config, checked: dict) -> Iterator[str]:
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in _inner_datasets((config.get(loader) or {}).get('dataset')):
            settings = {key: value for key, value in dataset.items() if key != 'pipeline'}
            root = settings.get('data_root') or ''
            # One message for all splits if the folder is absent or empty.
            key = (settings['type'], root) if root and not _contains(root) else repr(settings)
            if key not in checked:
                scope = config.get('default_scope') or 'mmengine'
                checked[key] = None if _is_remote(root) else _check_dataset(settings, scope)
            if checked[key]:
                yield checked[key]


def _inner_datasets(dataset: Optional[dict]) -> Iterator[dict]:
    """Yield the datasets inside wrappers such as ConcatDataset."""
    if isinstance(dataset, dict):
        inner = dataset.get('datasets') or [dataset.get('dataset')]
        if all(isinstance(each, dict) for each in inner):
            for each in inner:
                yield from _inner_datasets(each)
        else:
            yield dataset


def _contains(folder: str, matches: Callable[[os.DirEntry], bool] = bool) -> bool:
    """Whether a folder exists and contains a matching entry; stops at the first match."""
    if not os.path.isdir(folder):
        return False
    with os.scandir(folder) as entries:
        return any(map(matches, entries))


def _check_dataset(settings: dict, scope: str) -> Optional[str]:
    """Return what a dataset lacks, None if it is complete."""
    options = {key: value for key, value in settings.items() if key not in ('type', '_scope_')}
    if options.get('data_root'):
        options['data_root'] = os.path.abspath(options['data_root'])
    with DATASETS.switch_scope_and_registry(settings.get('_scope_', scope)) as registry:
        cls = registry.get(settings['type']) if isinstance(settings['type'], str) else settings['type']
        # Unknown types are reported when the dataset is built.
        return _CHECKS.get(cls, _check_any)(cls, **options) if inspect.isclass(cls) else None


def _check_cifar(cls: type, data_root: str = '', split: str = '', download: bool = False, **others) -> Optional[str]:
    folder, archive = Path(data_root) / cls.folder, Path(data_root) / cls.archive
    if folder.is_dir():
        complete = all((folder / name).is_file() for name in (*cls.files.get(split, ()), cls.meta_file))
    else:
        complete = download or archive.is_file()
    # A complete dataset is not built, because that reads all images.
    return None if complete else _error_message(lambda: cls(data_root, split))


def _check_digits(cls: type, **options) -> Optional[str]:
    # Importing scikit-learn takes a second.
    return None if importlib.util.find_spec('sklearn') else _error_message(lambda: cls(**options))


def _check_by_building(cls: type, **options) -> Optional[str]:
    """Check datasets that look for all listed files, at most some ten thousand, when they are built."""
    return _error_message(lambda: cls(**options))


def _check_folders(cls: type, **options) -> Optional[str]:
    """Check image folders, which may hold millions of files: only that they exist."""
    dataset = cls(**{**options, 'lazy_init': True})
    images, listed = os.path.abspath(dataset.img_prefix), dataset.ann_file
    lacks = []
    if listed and not os.path.isfile(listed):
        lacks.append(f'the file {os.path.abspath(listed)!r}')
    if not os.path.isdir(images):
        lacks.append(f'the folder {images!r}')
    elif not listed and dataset.with_label and not _contains(images, os.DirEntry.is_dir):
        lacks.append(f'a folder for each class in {images!r}')
    if not lacks:
        return None
    return f'{cls.__name__} lacks {" and ".join(lacks)}' + (
        _IMAGENET.format(dataset.data_root) if cls is ImageNet else '')


def _check_any(cls: type, data_root: str = '', ann_file: str = '', data_prefix: object = '', **others) -> Optional[str]:
    """Check the paths of an unknown dataset that uses mmengine's names for its arguments."""
    downloads = inspect.signature(cls).parameters.get('download')
    if others.get('download', downloads and downloads.default is True):
        return None
    prefixes = data_prefix.values() if isinstance(data_prefix, dict) else [data_prefix]
    paths = [data_root] if data_root and not os.path.exists(data_root) else [
        os.path.join(data_root, path) for path in (ann_file, *prefixes) if isinstance(path, str) and path]
    lacks = [repr(os.path.abspath(path)) for path in paths if not _is_remote(path) and not os.path.exists(path)]
    return f'{cls.__name__} lacks {" and ".join(lacks)}' if lacks else None


_CHECKS = {CIFAR10: _check_cifar, CIFAR100: _check_cifar, Digits: _check_digits, CUB: _check_by_building,
           IndoorScenes67: _check_by_building, CustomDataset: _check_folders, ImageNet: _check_folders}


# Packages and weights

def _missing_packages(config: Config) -> Iterator[str]:
    """Yield messages about packages that mmpretrain's networks require when they are built."""
    with MODELS.switch_scope_and_registry(config.get('default_scope') or 'mmengine') as registry:
        for part in _iter_dicts(config.model):
            cls = registry.get(part['type']) if isinstance(part.get('type'), str) else None
            verify = getattr(getattr(cls, '__init__', None), '_verify_require', None)
            message = verify and _error_message(verify)
            if message:
                yield message


def _missing_weights(config: Config, run: Run) -> Iterator[str]:
    for use, path in _initial_weights(config, run):
        message = None if _is_remote(path) else _error_message(lambda path=path: find_checkpoint(os.path.abspath(path)))
        if message:
            yield f'{use}: {message}'


def _initial_weights(config: Config, run: Run) -> Iterator[Tuple[str, str]]:
    """Yield purpose and path of all weights that a run starts with, except those of teachers still to be trained."""
    if config.get('load_from'):
        yield 'load_from', config.load_from
    teachers = teachers_of(config.model)
    if teachers and run.teacher is None:
        for teacher in teachers.values():
            checkpoint = Teacher.from_config(teacher).checkpoint
            if checkpoint is not None:
                yield 'Teacher weights', checkpoint
    elif run.teacher and run.teacher.result:
        yield 'Weights of the teacher trained for this table', str(run.teacher.work_dir)
    for part in _iter_dicts(network_config(config.model)):
        if part.get('type') == 'Pretrained' and part.get('checkpoint'):
            yield 'init_cfg', part['checkpoint']


def _iter_dicts(settings: object) -> Iterator[dict]:
    """Yield the dicts in a part of a config, at any depth."""
    if isinstance(settings, dict):
        yield settings
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for each in settings:
            yield from _iter_dicts(each)
