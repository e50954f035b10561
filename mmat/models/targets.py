"""Labels of a batch and names of classes."""
from itertools import zip_longest
from typing import Any, Iterable, List, Optional, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from mmat.errors import DataError


def read_targets(data_samples: Any) -> Tensor:
    """Return the labels of a batch, shape (N, ), or its scores, shape (N, classes), if all samples have scores.

    Raises:
        DataError: The batch has neither.
    """
    if hasattr(data_samples, 'gt_label'):
        return data_samples.gt_label
    samples = list(data_samples or [])
    if samples and all('gt_score' in sample for sample in samples):
        return torch.stack([sample.gt_score for sample in samples])
    if samples and all('gt_label' in sample and len(sample.gt_label) == 1 for sample in samples):
        return torch.cat([sample.gt_label for sample in samples])
    raise DataError('The batch has no targets: each image needs one label (`gt_label`) or scores (`gt_score`).')


def class_names(dataset) -> Optional[Sequence[str]]:
    """Return the class names of a dataset by label, or None if it has none."""
    return (getattr(dataset, 'metainfo', None) or {}).get('classes')


def compare_classes(expected: Optional[Sequence[str]], found: Optional[Sequence[str]], where: str) -> str:
    """Describe how class names, by label, differ from the expected ones.

    Args:
        expected (Sequence[str], optional): Class names by label.
        found (Sequence[str], optional): Class names by label.
        where (str): The place of ``found``, for the description.

    Returns:
        str: Such as ``"missing in val_dataloader: 'bee'; unknown in val_dataloader: 'dog'"``; empty if the names are
        equal or one side is unknown.
    """
    if expected is None or found is None or not len(expected) or not len(found):
        return ''
    expected, found = list(map(str, expected)), list(map(str, found))
    parts = [f'{kind} in {where}: {", ".join(map(repr, names[:5]))}' + f' and {len(names) - 5} more' * (len(names) > 5)
             for kind, names in (('missing', _difference(expected, found)), ('unknown', _difference(found, expected)))
             if names]
    if not parts and expected != found:
        label, names = next((label, pair) for label, pair in enumerate(zip_longest(expected, found))
                            if pair[0] != pair[1])
        parts = [f'another order in {where}: label {label} is {names[1]!r}, expected {names[0]!r}']
    return '; '.join(parts)


def _difference(names: List[str], others: List[str]) -> List[str]:
    known = set(others)
    return [name for name in names if name not in known]


def find_classifier(network: nn.Module) -> Optional[nn.Module]:
    """Return the part with ``num_classes``: the head, or the backbone as in mmpretrain's VGG; None if unknown."""
    parts = (getattr(network, name, None) for name in ('head', 'backbone'))
    return next((part for part in parts if (getattr(part, 'num_classes', None) or 0) > 0), None)


def label_names(batch: dict, classes: Optional[Sequence[str]]) -> List[str]:
    """Return the classes of each image of a batch, by name if ``classes`` is given; empty if the batch has no labels.

    Several labels of an image are joined by commas. Scores of mixed images give the class with the highest.
    """
    samples = batch.get('data_samples')
    try:
        targets = read_targets(samples)
        labels: Iterable[Any] = (targets if targets.dim() == 1 else targets.argmax(1))[:, None]
    except DataError:
        if not samples or not all('gt_label' in sample for sample in samples):
            return []
        labels = [sample.gt_label for sample in samples]
    return [', '.join(classes[label] if classes else str(int(label)) for label in each) for each in labels]
