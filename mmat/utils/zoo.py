"""The model zoo's index: names, configs and weights."""
import hashlib
import re
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import List, Optional, Union
from urllib.parse import urlsplit

from mmat.errors import CheckpointError, FileError, MissingFileError, did_you_mean


@lru_cache
def zoo_root() -> Path:
    """Return the folder that holds ``model-index.yml``: inside an installed package, or the checkout.

    Raises:
        MissingFileError: Neither has one.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package / '.mim', package.parent):
        if (root / 'model-index.yml').is_file():
            return root
    raise MissingFileError(f'mmat is installed without its configs: no model-index.yml in {package / ".mim"} or '
                           f'{package.parent}. Install a wheel or a checkout of mmat.')


@lru_cache
def zoo_index() -> dict:
    """Return the metafiles' entries by name, with absolute paths as ``Config`` and, unless a URL, ``Weights``."""
    from mmengine.fileio import load
    root = zoo_root()
    index = {}
    for metafile in load(root / 'model-index.yml')['Import']:
        for entry in load(root / metafile)['Models']:
            paths = {key: str(root / entry[key]) for key in ('Config', 'Weights')
                     if key in entry and '://' not in entry[key]}
            index[entry['Name']] = {**entry, **paths}
    return index


def list_models(pattern: Optional[str] = None) -> List[str]:
    """Return the names of the zoo's models, sorted.

    Args:
        pattern (str, optional): Shell-style wildcards, such as ``'wrn16-1_at-*'``. Defaults to None, all models.
    """
    return sorted(name for name in zoo_index() if pattern is None or fnmatch(name, pattern))


def find_config(name: str) -> str:
    """Resolve a name to a config file.

    Args:
        name (str): A name of mmat's zoo, the path of a config file, or a name of mmpretrain's zoo. A relative path is
            looked up in the current folder, then in mmat's zoo.

    Raises:
        MissingFileError: No such config. The message suggests similar names.
    """
    if name in zoo_index():
        return zoo_index()[name]['Config']
    known, remark = list(zoo_index()), ''
    if name.endswith('.py'):
        for path in (Path(name), zoo_root() / name):
            if path.is_file():
                return str(path)
    else:
        try:
            entry = _mmpretrain_entry(name)
        except MissingFileError as error:
            remark = f' {error}'
        else:
            if entry is not None:
                return entry.config.filename
            from mmpretrain import list_models as list_mmpretrain_models
            known += list_mmpretrain_models()
    hint = did_you_mean(Path(name).stem, known) or ' See mmat.list_models().'
    raise MissingFileError(f'No config {name!r}: neither a file nor a name of the zoo.{hint}{remark}')


def find_weights(name: str) -> Optional[str]:
    """Return the published weights of a model, a file or a URL, or None if it has none.

    Args:
        name (str): A name of mmat's or mmpretrain's zoo, or the path of one of mmat's configs.

    Raises:
        MissingFileError: ``name`` is a path and no such config exists.
    """
    if name not in zoo_index() and name.endswith('.py'):
        config = Path(find_config(name)).resolve()
        name = next((each for each, entry in zoo_index().items() if Path(entry['Config']).resolve() == config), name)
    if name in zoo_index() or name.endswith('.py'):
        return zoo_index().get(name, {}).get('Weights')
    entry = _mmpretrain_entry(name)
    return None if entry is None else entry.weights


def _mmpretrain_entry(name: str):
    """Return the entry of mmpretrain's zoo, with ``config`` and ``weights``, or None if it has none of this name.

    Raises:
        MissingFileError: mmpretrain is installed without its configs.
    """
    # Imported here: mmpretrain takes seconds, and its index one more.
    from mmpretrain import list_models as list_mmpretrain_models
    from mmpretrain.apis.model import ModelHub
    try:
        known = list_mmpretrain_models()
    except OSError as error:
        raise MissingFileError("The names of mmpretrain's models are unavailable: it is installed without its configs, "
                               'as an editable install is. Run pip install mmpretrain.') from error
    return ModelHub.get(name) if name.lower() in known else None


def fetch_weights(path: Union[str, Path]) -> str:
    """Return the file of some weights, after a download if needed, and verify the hash in its name.

    Published files are named ``<name>-<first 8 hex digits of their SHA-256>.pth``. Other names are not verified.

    Args:
        path (str | Path): A file, or an ``http(s)`` URL, which is downloaded once to the cache of :mod:`torch.hub`.

    Returns:
        str: The file.

    Raises:
        CheckpointError: The file's hash differs from the one in its name.
        FileError: The download failed.
    """
    path = str(path)
    url = path if path.startswith(('http://', 'https://')) else None
    if url:
        path = _download(url)
    expected = _published_hash(path)
    if expected and not sha256_of(path).startswith(expected):
        advice = f'Delete it to download {url} again' if url else 'Download it again'
        raise CheckpointError(f'Checkpoint {path!r} is incomplete or not the published file: its SHA-256 does not '
                              f'begin with {expected}. {advice}.')
    return path


def _published_hash(path: str) -> Optional[str]:
    found = re.search(r'-([0-9a-f]{8})\.pth$', path)
    # Digits alone are a date or a number of iterations: 'wrn16-1-20210208.pth', 'wrn16-1-00050000.pth'.
    return found[1] if found and not found[1].isdigit() else None


def sha256_of(path: Union[str, Path]) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def _download(url: str) -> str:
    import torch
    file = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlsplit(url).path).name
    if not _published_hash(file.name):
        # Many URLs end in a name such as epoch_200.pth.
        file = file.with_name(f'{file.stem}_{hashlib.sha256(url.encode()).hexdigest()[:8]}{file.suffix}')
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Renames the file only when it is complete and its hash is right.
            torch.hub.download_url_to_file(url, str(file), _published_hash(file.name))
        except (OSError, RuntimeError, ValueError) as error:
            raise FileError(f'Cannot download {url}: {error}. Download the file by other means and give its path.'
                            ) from error
    return str(file)
