"""Labels of a batch, and their names."""
from typing import List, Optional, Sequence

import torch
from torch import Tensor


def read_targets(data_samples: list) -> Tensor:
    """Labels of a batch, shape (N, ), or their scores, (N, classes), where it has scores.

    Raises:
        ValueError: It has neither.
    """
    if hasattr(data_samples, 'gt_label'):
        return data_samples.gt_label
    samples = list(data_samples or [])
    if samples and all('gt_score' in sample for sample in samples):
        return torch.stack([sample.gt_score for sample in samples])
    if samples and all('gt_label' in sample and len(sample.gt_label) == 1 for sample in samples):
        return torch.cat([sample.gt_label for sample in samples])
    raise ValueError('the targets of a batch are wanted, but it has no labels (one, or scores, for each image)')


def class_names(dataset) -> Optional[Sequence[str]]:
    """Names of the classes, by label; None of a dataset that does not know them."""
    return (getattr(dataset, 'metainfo', None) or {}).get('classes')


def label_names(batch: dict, classes: Optional[Sequence[str]]) -> List[str]:
    """The class of each image of a batch, in words where there are some; empty where there are no labels."""
    try:
        targets = read_targets(batch['data_samples'])
    except (KeyError, ValueError):
        return []
    labels = targets if targets.dim() == 1 else targets.argmax(1)
    return [classes[label] if classes else str(int(label)) for label in labels]
