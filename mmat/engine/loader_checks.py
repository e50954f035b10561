"""Check that a data loader has batches."""
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object
from torch.utils.data import DataLoader, IterableDataset

from mmat.errors import ConfigError, DataError


def check_batches(loader: DataLoader, name: str) -> None:
    """Refuse a data loader without batches. Called in every process, it raises in every process.

    Args:
        loader (DataLoader): Its dataset has a length; others are not checked.
        name (str): The loader's setting.

    Raises:
        ConfigError: The loader has no batch in one of the processes, or its ``num_batch_per_epoch`` exceeds the data.
        DataError: The dataset is empty.
    """
    dataset = _whole_dataset(loader)
    if isinstance(dataset, IterableDataset):
        return
    images, used = len(dataset), len(loader.dataset)
    if images == 0:
        raise DataError(f'The dataset of {name} ({dataset_type(loader)}) has 0 images. Check its files and `indices`.')
    if not 0 < used <= images:
        raise ConfigError(f'num_batch_per_epoch of {name} takes {used} images, but {dataset_type(loader)} has '
                          f'{images}.')
    # The length of an infinite sampler says nothing about its batches.
    batches = all_gather_object(1 if isinstance(loader.sampler, InfiniteSampler) else len(loader))
    if 0 in batches:
        where = f' in process {batches.index(0)} of {len(batches)}' if len(batches) > 1 else ''
        raise no_batch_error(loader, name + where)


def no_batch_error(loader: DataLoader, name: str) -> ConfigError:
    """Return the error for a loader with images and without batches."""
    sampler = loader.batch_sampler
    batch_size, drop_last = (getattr(sampler, key, getattr(loader, key)) for key in ('batch_size', 'drop_last'))
    return ConfigError(f'No batch from {name}: {dataset_type(loader)} has {len(loader.dataset)} images, batch_size is '
                       f'{batch_size}, drop_last is {drop_last}. Set a smaller batch_size or drop_last=False, or use '
                       'fewer processes.')


def dataset_type(loader: DataLoader) -> str:
    """Return the type of a loader's dataset, for messages."""
    return type(_whole_dataset(loader)).__name__


def _whole_dataset(loader: DataLoader):
    """Return the dataset that ``num_batch_per_epoch`` takes a part of."""
    dataset = loader.dataset
    return dataset._dataset if type(dataset).__name__ == '_SlicedDataset' else dataset
