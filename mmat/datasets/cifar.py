"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009) from their official archives, in memory."""
import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES, CIFAR100_CATEGORIES

from mmat.errors import ConfigError, DataError, FileError, MissingFileError
from mmat.registry import DATASETS

from .image_files import DATA_ROOT_HELP
from .in_memory import InMemoryDataset

# The official files need NumPy arrays and plain values. The unpickler refuses everything else, so no code runs.
_ALLOWED = {('numpy', 'ndarray'), ('numpy', 'dtype'), ('_codecs', 'encode')} | {
    (f'numpy.{core}.multiarray', name) for core in ('core', '_core') for name in ('_reconstruct', 'scalar')
}


class _ArrayUnpickler(pickle.Unpickler):

    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'it refers to {module}.{name}')
        # NumPy 1 has the module under its old name only, NumPy 2 warns about that name.
        if module.startswith('numpy.core') and hasattr(np, '_core'):
            module = module.replace('numpy.core', 'numpy._core')
        return super().find_class(module, name)


class _CIFAR(InMemoryDataset):
    """Base class of CIFAR-10 and CIFAR-100."""

    folder: str
    archive: str
    url: str
    md5: str
    files: dict
    meta_file: str
    label_key: str
    classes_key: str

    def __init__(self, data_root: str, split: str, indices: Optional[object] = None, download: bool = False):
        if split not in self.files:
            raise ConfigError(f"{type(self).__name__}: `split` must be 'train' or 'test', got {split!r}.")
        self.data_root = Path(data_root)
        content = self._read([*self.files[split], self.meta_file], download)
        classes = content.pop(self.meta_file).get(self.classes_key)
        if not isinstance(classes, list):
            raise DataError(f'{self._path(self.meta_file)!r} has no list {self.classes_key!r}.')
        images, labels = zip(*(self._parse(name, batch, len(classes)) for name, batch in content.items()))
        super().__init__(torch.cat(images), torch.cat(labels), classes, indices)

    @classmethod
    def image_size(cls, **options) -> int:
        return 32

    def _path(self, name: str) -> str:
        return str(self.data_root / self.folder / name)

    def _parse(self, name: str, batch: dict, num_classes: int) -> tuple:
        """Check the content of a file and return its images (N, 3, 32, 32) and labels (N, )."""
        path, (data, labels) = self._path(name), (batch.get('data'), batch.get(self.label_key))
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            found = f'{data.dtype} {data.shape}' if isinstance(data, np.ndarray) else type(data).__name__
            raise DataError(f"{path!r}: 'data' must be uint8 of shape (N, 3072), got {found}.")
        if not isinstance(labels, list) or len(labels) != len(data):
            found = len(labels) if isinstance(labels, list) else type(labels).__name__
            raise DataError(f'{path!r}: {self.label_key!r} must be a list of {len(data)} labels, got {found}.')
        invalid = [label for label in labels if not isinstance(label, (int, np.integer))]
        if invalid:
            raise DataError(f'{path!r}: {self.label_key!r} must be integers, got {invalid[0]!r}.')
        labels = torch.tensor(labels, dtype=torch.int64)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise DataError(f'{path!r}: labels must be between 0 and {num_classes - 1}, got {int(labels.min())} to '
                            f'{int(labels.max())}.')
        return torch.from_numpy(data.copy()).view(-1, 3, 32, 32), labels

    def _read(self, names: list, download: bool) -> dict:
        """Read files from the unpacked folder or directly from the archive."""
        folder, archive = self.data_root / self.folder, self.data_root / self.archive
        if not folder.is_dir() and not archive.is_file() and download:
            self._download()
        if folder.is_dir():
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise MissingFileError(f'{str(folder)!r} lacks {", ".join(missing)}. It holds '
                                       f'{", ".join(sorted(f.name for f in folder.iterdir())) or "no files"}.')
            return {name: self._unpickle(name, (folder / name).read_bytes()) for name in names}
        if archive.is_file():
            try:
                # Read as a stream: seeking back would decompress the archive again from its start.
                with tarfile.open(archive, 'r|*') as tar:
                    found = {Path(member.name).name: tar.extractfile(member).read()
                             for member in tar if member.isfile() and Path(member.name).name in names}
                batches = {name: found[name] for name in names}
            except (tarfile.TarError, EOFError, KeyError, OSError, zlib.error) as error:
                raise DataError(f'Cannot read {str(archive)!r} as the archive of {type(self).__name__} ({error!r}). '
                                'Delete it and download it again.') from error
            return {name: self._unpickle(name, content) for name, content in batches.items()}
        raise MissingFileError(
            f'{type(self).__name__} is not in {str(self.data_root)!r}: expected the folder {self.folder}/ or the '
            f'archive {self.archive}. Set download=True on the dataset, or download {self.url}. {DATA_ROOT_HELP}')

    def _unpickle(self, name: str, content: bytes) -> dict:
        try:
            batch = _ArrayUnpickler(io.BytesIO(content), encoding='latin1').load()
        except Exception as error:  # damaged bytes can raise any exception while they are parsed
            raise DataError(f'Cannot read {self._path(name)!r}: the file is truncated or not one of '
                            f'{type(self).__name__} ({error}).') from error
        if not isinstance(batch, dict):
            raise DataError(f'{self._path(name)!r} must hold a dict, got {type(batch).__name__}.')
        return batch

    def _download(self) -> None:
        from mmengine.dist import barrier, is_main_process
        from torchvision.datasets.utils import download_url
        if is_main_process():
            # Renamed once it is complete and its checksum matches, so that a partial download is never used.
            part = self.data_root / f'{self.archive}.part'
            try:
                download_url(self.url, str(self.data_root), part.name, self.md5)
            except (OSError, RuntimeError) as error:  # RuntimeError: the checksum differs
                raise FileError(f'Cannot download {self.url} ({error}). Download it yourself into '
                                f'{str(self.data_root)!r}.') from error
            part.replace(self.data_root / self.archive)
        barrier()


@DATASETS.register_module()
class CIFAR10(_CIFAR):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in 10 classes.

    Reads the official layout, ``cifar-10-batches-py/`` or ``cifar-10-python.tar.gz``. The files may hold any number of
    images. Unpickling is restricted to NumPy arrays and plain values.

    Args:
        data_root (str): Folder that contains ``cifar-10-batches-py/`` or the archive.
        split (str): 'train' or 'test'.
        indices (int | Sequence[int], optional): See :class:`InMemoryDataset`.
        download (bool): Download the archive and check its MD5 sum if neither exists. Defaults to False.

    Raises:
        MissingFileError: The data or one of its files does not exist.
        FileError: The download failed.
        DataError: A file is truncated or malformed.
        ConfigError: ``split`` or ``indices`` is invalid.
    """
    METAINFO = dict(classes=CIFAR10_CATEGORIES)
    folder = 'cifar-10-batches-py'
    archive = 'cifar-10-python.tar.gz'
    url = 'https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz'
    md5 = 'c58f30108f718f92721af3b95e74349a'
    files = dict(train=[f'data_batch_{i}' for i in range(1, 6)], test=['test_batch'])
    meta_file = 'batches.meta'
    label_key = 'labels'
    classes_key = 'label_names'


@DATASETS.register_module()
class CIFAR100(_CIFAR):
    """CIFAR-100 with its 100 fine classes. See :class:`CIFAR10`."""
    METAINFO = dict(classes=CIFAR100_CATEGORIES)
    folder = 'cifar-100-python'
    archive = 'cifar-100-python.tar.gz'
    url = 'https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz'
    md5 = 'eb9058c3a382ffc7106e4002c42a8d85'
    files = dict(train=['train'], test=['test'])
    meta_file = 'meta'
    label_key = 'fine_labels'
    classes_key = 'fine_label_names'
