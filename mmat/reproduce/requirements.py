"""What trainings need and this machine lacks, told before the first of them begins."""
import importlib.util
import inspect
import os
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset, ImageNet

from mmat.datasets import CIFAR10, CIFAR100, CUB, Digits, IndoorScenes67
from mmat.models.build import network_config
from mmat.models.distillers import Teacher
from mmat.registry import DATASETS, MODELS
from mmat.utils.checkpoint import find_checkpoint
from mmat.utils.zoo import find_config

from .run import Run

_IMAGENET = ('. Expected train/<class>/*.JPEG, and val/<class>/*.JPEG or val/*.JPEG with meta/val.txt, in {!r}. Fetch '
             'them from https://www.image-net.org/download.php, or name another folder (data_root)')


def missing(runs: Iterable[Run]) -> List[str]:
    """What has to be there before these trainings can run, and is not: datasets, packages, weights.

    It is quick, so it tells that files are there, not what is in them. Weights at a URL are no file that could be
    missing, see :func:`downloads`.

    Args:
        runs (Iterable[Run]): The trainings, teachers among them. Those that are done need nothing.

    Returns:
        list[str]: For each thing one message: what it is, where it was looked for, where it is to be had, and the
        configs that need it.

    Raises:
        ValueError: A teacher that neither is trained here nor has weights: no file would help.
    """
    answers = {}  # no dataset is asked twice
    return _by_need((run, [*_data(config, answers), *_packages(config), *_files(config, run)])
                    for run, config in _different(runs))


def downloads(runs: Iterable[Run]) -> List[str]:
    """The weights that these trainings fetch from the network, which a machine without one has to be given before.

    Args:
        runs (Iterable[Run]): As for :func:`missing`.

    Returns:
        list[str]: For each file that is not there yet: its URL, where it is kept, and the configs that need it.
    """
    cache = Path(torch.hub.get_dir()).absolute() / 'checkpoints'
    return _by_need((run, [f'{path} will be downloaded to {str(cache)!r}' for _, path in _weights(config, run)
                           if _is_remote(path) and not (cache / Path(path).name).is_file()])
                    for run, config in _different(runs))


def _different(runs: Iterable[Run]) -> Iterator[Tuple[Run, Config]]:
    """Of runs that differ in nothing but their seed one, with its config; none where all are done."""
    for run in {(run.config, repr(run.options)): run for run in runs if not run.result}.values():
        config = Config.fromfile(find_config(run.config))
        config.merge_from_dict(run.options)
        yield run, config


def _by_need(messages: Iterable[Tuple[Run, List[str]]]) -> List[str]:
    """Each message once, with the configs that it is about."""
    needs: Dict[str, List[str]] = {}
    for run, each in messages:
        for message in dict.fromkeys(each):
            needs.setdefault(message, []).append(run.name)
    return [f'{message}. Needed by {", ".join(names[:3])}' + (f' and {len(names) - 3} more' if names[3:] else '')
            for message, names in needs.items()]


def _words(check: Callable[[], object]) -> Optional[str]:
    """What a check of somebody else has to say."""
    try:
        check()
    except (OSError, ValueError, ImportError) as error:
        return str(error).rstrip('.')
    return None


def _is_remote(path: str) -> bool:
    return '://' in path or path.startswith('s3:')


# Datasets

def _data(config: Config, answers: dict) -> Iterator[str]:
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in _leaves((config.get(loader) or {}).get('dataset')):
            # Its pipeline is not asked.
            settings = {key: value for key, value in dataset.items() if key != 'pipeline'}
            root = settings.get('data_root') or ''
            # Where there is nothing at all, the first split speaks for all.
            key = (settings['type'], root) if root and not _holds(root) else repr(settings)
            if key not in answers:
                answers[key] = None if _is_remote(root) else _ask(settings, config.get('default_scope') or 'mmengine')
            if answers[key]:
                yield answers[key]


def _leaves(dataset: Optional[dict]) -> Iterator[dict]:
    """The datasets inside wrappers such as ConcatDataset."""
    if isinstance(dataset, dict):
        inner = dataset.get('datasets') or [dataset.get('dataset')]
        if all(isinstance(each, dict) for each in inner):
            for each in inner:
                yield from _leaves(each)
        else:
            yield dataset


def _holds(folder: str, what: Callable[[os.DirEntry], bool] = bool) -> bool:
    """Whether a folder is there and has something of a kind in it; it is read no further than to the first."""
    if not os.path.isdir(folder):
        return False
    with os.scandir(folder) as entries:
        return any(map(what, entries))


def _ask(settings: dict, scope: str) -> Optional[str]:
    """What a dataset lacks, in its own words where it has some; None where it lacks nothing."""
    options = {key: value for key, value in settings.items() if key not in ('type', '_scope_')}
    if options.get('data_root'):
        options['data_root'] = os.path.abspath(options['data_root'])
    with DATASETS.switch_scope_and_registry(settings.get('_scope_', scope)) as registry:
        kind = registry.get(settings['type']) if isinstance(settings['type'], str) else settings['type']
        # What is no type, making it will say.
        return _KNOWN.get(kind, _ask_any)(kind, **options) if inspect.isclass(kind) else None


def _ask_cifar(kind: type, data_root: str = '', split: str = '', download: bool = False, **others) -> Optional[str]:
    folder, archive = Path(data_root) / kind.folder, Path(data_root) / kind.archive
    if folder.is_dir():
        there = all((folder / name).is_file() for name in (*kind.files.get(split, ()), kind.meta_file))
    else:
        there = download or archive.is_file()
    # Making it would read all of it.
    return None if there else _words(lambda: kind(data_root, split))


def _ask_digits(kind: type, **options) -> Optional[str]:
    # Importing it takes a second.
    return None if importlib.util.find_spec('sklearn') else _words(lambda: kind(**options))


def _ask_listed(kind: type, **options) -> Optional[str]:
    """Datasets that look for each file of their lists, some ten thousand."""
    return _words(lambda: kind(**options))


def _ask_folders(kind: type, **options) -> Optional[str]:
    """Folders of images, which may be millions: only that there are some."""
    dataset = kind(**{**options, 'lazy_init': True})
    images, listed = os.path.abspath(dataset.img_prefix), dataset.ann_file
    lacks = []
    if listed and not os.path.isfile(listed):
        lacks.append(f'the file {os.path.abspath(listed)!r}')
    if not os.path.isdir(images):
        lacks.append(f'the folder {images!r}')
    elif not listed and dataset.with_label and not _holds(images, os.DirEntry.is_dir):
        lacks.append(f'a folder for each class in {images!r}')
    if not lacks:
        return None
    return f'{kind.__name__} lacks {" and ".join(lacks)}' + (
        _IMAGENET.format(dataset.data_root) if kind is ImageNet else '')


def _ask_any(kind: type, data_root: str = '', ann_file: str = '', data_prefix: object = '', **others) -> Optional[str]:
    """Datasets that nothing is known of but what their settings are called."""
    downloads = inspect.signature(kind).parameters.get('download')
    if others.get('download', downloads and downloads.default is True):
        return None
    prefixes = data_prefix.values() if isinstance(data_prefix, dict) else [data_prefix]
    places = [data_root] if data_root and not os.path.exists(data_root) else [
        os.path.join(data_root, place) for place in (ann_file, *prefixes) if isinstance(place, str) and place]
    lacks = [repr(os.path.abspath(place)) for place in places if not _is_remote(place) and not os.path.exists(place)]
    return f'{kind.__name__} lacks {" and ".join(lacks)}' if lacks else None


_KNOWN = {CIFAR10: _ask_cifar, CIFAR100: _ask_cifar, Digits: _ask_digits, CUB: _ask_listed,
          IndoorScenes67: _ask_listed, CustomDataset: _ask_folders, ImageNet: _ask_folders}


# Packages and weights

def _packages(config: Config) -> Iterator[str]:
    """Packages that mmpretrain's networks ask for when they are made."""
    with MODELS.switch_scope_and_registry(config.get('default_scope') or 'mmengine') as registry:
        for part in _dicts(config.model):
            kind = registry.get(part['type']) if isinstance(part.get('type'), str) else None
            ask = getattr(getattr(kind, '__init__', None), '_verify_require', None)
            message = ask and _words(ask)
            if message:
                yield message


def _files(config: Config, run: Run) -> Iterator[str]:
    for use, path in _weights(config, run):
        message = None if _is_remote(path) else _words(lambda path=path: find_checkpoint(os.path.abspath(path)))
        if message:
            yield f'{use}: {message}'


def _weights(config: Config, run: Run) -> Iterator[Tuple[str, str]]:
    """What for, and where: the weights that a training begins with and no training of the table makes."""
    if config.get('load_from'):
        yield 'load_from', config.load_from
    teacher = config.model.get('teacher')
    if teacher and run.teacher is None:
        checkpoint = Teacher.of(teacher).checkpoint
        if checkpoint is not None:
            yield 'the weights of the teacher', checkpoint
    elif run.teacher and run.teacher.result:
        yield 'the weights of the teacher, which was trained here', str(run.teacher.work_dir)
    for part in _dicts(network_config(config.model)):
        if part.get('type') == 'Pretrained' and part.get('checkpoint'):
            yield 'init_cfg', part['checkpoint']


def _dicts(settings: object) -> Iterator[dict]:
    """The dicts in a part of a config, at any depth."""
    if isinstance(settings, dict):
        yield settings
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for each in settings:
            yield from _dicts(each)
