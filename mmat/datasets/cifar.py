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

from mmat.registry import DATASETS

from .in_memory import InMemoryDataset

# All that the official files need: NumPy arrays and plain values. Nothing else is ever looked up, so nothing runs.
_ALLOWED = {('numpy', 'ndarray'), ('numpy', 'dtype'), ('_codecs', 'encode')} | {
    (f'numpy.{core}.multiarray', name) for core in ('core', '_core') for name in ('_reconstruct', 'scalar')
}


class _ArrayUnpickler(pickle.Unpickler):

    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'it refers to {module}.{name}')
        # NumPy 1 keeps the module under the old name only, NumPy 2 warns about it.
        if module.startswith('numpy.core') and hasattr(np, '_core'):
            module = module.replace('numpy.core', 'numpy._core')
        return super().find_class(module, name)


class _CIFAR(InMemoryDataset):
    """What CIFAR-10 and CIFAR-100 have in common; see them."""

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
            raise ValueError(f'split of {type(self).__name__} must be one of {tuple(self.files)}, got {split!r}')
        self.data_root = Path(data_root)
        content = self._read([*self.files[split], self.meta_file], download)
        classes = content.pop(self.meta_file).get(self.classes_key)
        if not isinstance(classes, list):
            raise ValueError(f'{self._where(self.meta_file)} has no {self.classes_key!r}')
        images, labels = zip(*(self._check(name, batch, len(classes)) for name, batch in content.items()))
        super().__init__(torch.cat(images), torch.cat(labels), classes, indices)

    @classmethod
    def image_size(cls, **options) -> int:
        return 32

    def _where(self, name: str) -> str:
        return str(self.data_root / self.folder / name)

    def _check(self, name: str, batch: dict, num_classes: int) -> tuple:
        """One file's images (N, 3, 32, 32) and labels (N, ), or one message about what is wrong with it."""
        data, labels = batch.get('data'), batch.get(self.label_key)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            found = f'{data.dtype} {data.shape}' if isinstance(data, np.ndarray) else type(data).__name__
            raise ValueError(f"{self._where(name)}: 'data' must be uint8 of shape (N, 3072), found {found}")
        if not isinstance(labels, list) or len(labels) != len(data):
            found = len(labels) if isinstance(labels, list) else type(labels).__name__
            raise ValueError(f'{self._where(name)}: {self.label_key!r} must be {len(data)} labels, found {found}')
        strange = [label for label in labels if not isinstance(label, (int, np.integer))]
        if strange:
            raise ValueError(f'{self._where(name)}: {self.label_key!r} must be whole numbers, found {strange[0]!r}')
        labels = torch.tensor(labels, dtype=torch.int64)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(f'{self._where(name)}: labels must be from 0 to {num_classes - 1}, found '
                             f'{int(labels.min())} to {int(labels.max())}')
        return torch.from_numpy(data.copy()).view(-1, 3, 32, 32), labels

    def _read(self, names: list, download: bool) -> dict:
        """The content of some files, from the unpacked folder or straight from the archive."""
        folder, archive = self.data_root / self.folder, self.data_root / self.archive
        if not folder.is_dir() and not archive.is_file() and download:
            self._download()
        if folder.is_dir():
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise FileNotFoundError(f'{folder} lacks {", ".join(missing)}: it holds '
                                        f'{", ".join(sorted(f.name for f in folder.iterdir())) or "nothing"}')
            return {name: self._unpickle(name, (folder / name).read_bytes()) for name in names}
        if archive.is_file():
            try:
                # As a stream: going back in a compressed archive means unpacking it again from its start.
                with tarfile.open(archive, 'r|*') as tar:
                    found = {Path(member.name).name: tar.extractfile(member).read()
                             for member in tar if member.isfile() and Path(member.name).name in names}
                batches = {name: found[name] for name in names}
            except (tarfile.TarError, EOFError, KeyError, OSError, zlib.error) as error:
                raise ValueError(f'{archive} cannot be read as the archive of {type(self).__name__} ({error!r}); '
                                 'delete it and download it again') from error
            return {name: self._unpickle(name, content) for name, content in batches.items()}
        raise FileNotFoundError(
            f'{type(self).__name__} is not in {str(self.data_root)!r}: expected the folder {self.folder}/ or the '
            f'archive {self.archive} in it. Set download=True on the dataset, fetch {self.url} yourself, or name '
            'another folder (data_root)')

    def _unpickle(self, name: str, content: bytes) -> dict:
        try:
            batch = _ArrayUnpickler(io.BytesIO(content), encoding='latin1').load()
        except Exception as error:  # a broken pickle raises whatever its bytes lead to
            raise ValueError(f'{self._where(name)} cannot be read as a file of {type(self).__name__}: it is truncated '
                             f'or something else ({error})') from error
        if not isinstance(batch, dict):
            raise ValueError(f'{self._where(name)} must hold a dict, found {type(batch).__name__}')
        return batch

    def _download(self) -> None:
        from mmengine.dist import barrier, is_main_process
        from torchvision.datasets.utils import download_url
        if is_main_process():
            # It gets its name when it is whole and its MD5 sum right: what breaks off is never taken for it.
            part = self.data_root / f'{self.archive}.part'
            download_url(self.url, str(self.data_root), part.name, self.md5)
            part.replace(self.data_root / self.archive)
        barrier()


@DATASETS.register_module()
class CIFAR10(_CIFAR):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in 10 classes.

    Reads the official layout, ``cifar-10-batches-py/`` or ``cifar-10-python.tar.gz`` as it is. The files may hold any
    number of images. Unpickling is restricted to NumPy arrays and plain values.

    Args:
        data_root (str): The folder that holds the folder or the archive.
        split (str): 'train' or 'test'.
        indices (int | Sequence[int], optional): See :class:`InMemoryDataset`.
        download (bool): Fetch the archive, with its checksum checked, where neither is there. Defaults to False.

    Raises:
        FileNotFoundError: The data or one of its files is not there.
        ValueError: A file that is truncated or not what it should be, or an option outside these.
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
    """CIFAR-100 with its 100 fine classes; otherwise as :class:`CIFAR10`."""
    METAINFO = dict(classes=CIFAR100_CATEGORIES)
    folder = 'cifar-100-python'
    archive = 'cifar-100-python.tar.gz'
    url = 'https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz'
    md5 = 'eb9058c3a382ffc7106e4002c42a8d85'
    files = dict(train=['train'], test=['test'])
    meta_file = 'meta'
    label_key = 'fine_labels'
    classes_key = 'fine_label_names'
