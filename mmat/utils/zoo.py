"""The model zoo's index: names, configs and weights."""
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import List, Optional


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
    """The config file that a zoo name or a path means.

    Raises:
        FileNotFoundError: There is none; the message names the closest.
    """
    if name in zoo_index():
        return zoo_index()[name]['Config']
    if name.endswith('.py'):
        # Paths in a config are meant from where the command is run; the zoo's own also from anywhere else.
        for path in (Path(name), zoo_root() / name):
            if path.is_file():
                return str(path)
    close = get_close_matches(Path(name).stem, zoo_index(), n=3, cutoff=0.4)
    raise FileNotFoundError(f'no config {name!r}: it is neither a file nor a name of the zoo' +
                            (f'; the closest names are {", ".join(close)}' if close else '; see mmat.list_models()'))
