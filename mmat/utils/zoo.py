"""The model zoo's index: names, configs and weights."""
import hashlib
import re
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import List, Optional, Union
from urllib.parse import urlsplit


@lru_cache
def zoo_root() -> Path:
    """The folder that holds ``model-index.yml``: inside an installed package, or the checkout.

    Raises:
        FileNotFoundError: Neither has one.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package / '.mim', package.parent):
        if (root / 'model-index.yml').is_file():
            return root
    raise FileNotFoundError(f'mmat is installed without its configs: no model-index.yml in {package / ".mim"} '
                            f'or {package.parent}')


@lru_cache
def zoo_index() -> dict:
    """Name -> entry of the metafiles, with ``Config``, and ``Weights`` where they are a file, made absolute."""
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
    """Names of the zoo's models, sorted.

    Args:
        pattern (str, optional): Shell-style wildcards, such as ``'wrn16-1_at-*'``. Defaults to None, all of them.
    """
    return sorted(name for name in zoo_index() if pattern is None or fnmatch(name, pattern))


def find_config(name: str) -> str:
    """The config file that a name or a path means: a name of our zoo, a file, or a name of mmpretrain's zoo.

    Raises:
        FileNotFoundError: There is none; the message names the closest.
    """
    if name in zoo_index():
        return zoo_index()[name]['Config']
    known, remark = list(zoo_index()), ''
    if name.endswith('.py'):
        # Paths in a config are meant from where the command is run; the zoo's own also from anywhere else.
        for path in (Path(name), zoo_root() / name):
            if path.is_file():
                return str(path)
    else:
        try:
            entry = _mmpretrain_entry(name)
        except FileNotFoundError as error:
            remark = f' ({error})'
        else:
            if entry is not None:
                return entry.config.filename
            from mmpretrain import list_models as list_mmpretrain_models
            known += list_mmpretrain_models()
    close = get_close_matches(Path(name).stem, dict.fromkeys(known), n=3, cutoff=0.4)
    raise FileNotFoundError(f'no config {name!r}: it is neither a file nor a name of the zoo{remark}' +
                            (f'; the closest names are {", ".join(close)}' if close else '; see mmat.list_models()'))


def find_weights(name: str) -> Optional[str]:
    """The published weights of a model, a file or a URL; None where there are none.

    Args:
        name (str): As for :func:`find_config`: a name of our zoo or mmpretrain's, or the path of a config of ours.
    """
    if name not in zoo_index() and name.endswith('.py'):
        config = Path(find_config(name)).resolve()
        name = next((each for each, entry in zoo_index().items() if Path(entry['Config']).resolve() == config), name)
    if name in zoo_index() or name.endswith('.py'):
        return zoo_index().get(name, {}).get('Weights')
    entry = _mmpretrain_entry(name)
    return None if entry is None else entry.weights


def _mmpretrain_entry(name: str):
    """What mmpretrain's zoo has under a name, its ``config`` and ``weights``; None where it has nothing.

    Raises:
        FileNotFoundError: mmpretrain is installed without its configs.
    """
    # Here: it takes seconds to import, and one more to read its index.
    from mmpretrain import list_models as list_mmpretrain_models
    from mmpretrain.apis.model import ModelHub
    try:
        known = list_mmpretrain_models()
    except OSError as error:
        raise FileNotFoundError("mmpretrain's own models have no names here: it is installed without its configs, as "
                                'an editable install is; pip install mmpretrain brings them') from error
    return ModelHub.get(name) if name.lower() in known else None


def fetch_weights(path: Union[str, Path]) -> str:
    """The file of some weights, downloaded once where they are at a URL, and held against the hash in its name.

    Published files are named ``<name>-<first 8 hex digits of their SHA-256>.pth``. Any other name promises nothing,
    and nothing is checked.

    Args:
        path (str | Path): A file, or an ``http(s)`` URL, which is kept where :mod:`torch.hub` keeps its own.

    Returns:
        str: The file.

    Raises:
        ValueError: The file is not the one that was published under its name.
        OSError: It cannot be downloaded.
    """
    path = str(path)
    url = path if path.startswith(('http://', 'https://')) else None
    if url:
        path = _download(url)
    expected = _published_hash(path)
    if expected and not sha256_of(path).startswith(expected):
        advice = f'; delete it, and it is downloaded from {url} again' if url else ': fetch it again'
        raise ValueError(f'{path!r} is not the file that was published under its name (its SHA-256 does not begin with '
                         f'{expected}), or only a part of it{advice}')
    return path


def _published_hash(path: str) -> Optional[str]:
    found = re.search(r'-([0-9a-f]{8})\.pth$', path)
    # A day or a number of iterations is no hash: 'wrn16-1-20210208.pth', 'wrn16-1-00050000.pth'.
    return found[1] if found and not found[1].isdigit() else None


def sha256_of(path: Union[str, Path]) -> str:
    """The hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def _download(url: str) -> str:
    import torch
    file = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlsplit(url).path).name
    if not _published_hash(file.name):
        # Whoever keeps weights has an epoch_200.pth.
        file = file.with_name(f'{file.stem}_{hashlib.sha256(url.encode()).hexdigest()[:8]}{file.suffix}')
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # It gets its name when it is whole, and its hash right.
            torch.hub.download_url_to_file(url, str(file), _published_hash(file.name))
        except (OSError, RuntimeError, ValueError) as error:
            raise OSError(f'the weights {url} cannot be downloaded ({error}); fetch them by other means, and name the '
                          'file') from error
    return str(file)
