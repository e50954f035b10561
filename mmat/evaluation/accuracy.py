"""Accuracy of a test set, read from the device once."""
from typing import Any, Dict, List, Optional, Sequence

import torch
from mmpretrain.evaluation import Accuracy as MMPretrainAccuracy
from torch import Tensor

from mmat.datasets import BatchedSamples
from mmat.registry import METRICS


@METRICS.register_module()
class Accuracy(MMPretrainAccuracy):
    """mmpretrain's accuracy, in percent and to the bit, without a copy to the host for each image.

    What is kept of a batch is whether each image counts as right, by ``topk`` and ``thrs``, on the batch's device until
    the end of the epoch. Under :class:`mmat.evaluation.BatchEvaluator` it takes batches whole, under mmengine's
    evaluator a dict for each image.

    Args:
        topk (int | Sequence[int]): An image is right if its label is among the highest so many scores. Defaults to
            (1, ).
        thrs (float | None | Sequence[float | None]): Only scores above it count; None for any. Defaults to 0.
        collect_device (str): Where processes exchange what they have, 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): Of the names of the results. Defaults to None, 'accuracy'.

    Raises:
        ValueError: At run time, a ``topk`` of more than the classes, not one label for each prediction, or neither
            scores nor predicted labels.
    """

    def process_batch(self, data_batch: Any, data_samples: BatchedSamples) -> None:
        """Take a batch whole.

        Args:
            data_batch (Any): Not used.
            data_samples (BatchedSamples): With ``gt_label``, and ``pred_score`` or else ``pred_label``.
        """
        self._add(data_samples.gt_label, data_samples.get('pred_score'), data_samples.get('pred_label'))

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Take a dict for each image, as :meth:`process_batch` takes the batch."""
        columns = [[each[name] for each in data_samples] if name in data_samples[0] else None
                   for name in ('gt_label', 'pred_score', 'pred_label')]
        labels, scores, guesses = columns
        self._add(torch.cat(labels), None if scores is None else torch.stack(scores),
                  None if guesses is None else torch.cat(guesses))

    def evaluate(self, size: int) -> Dict[str, float]:
        """Accuracies of a dataset of ``size`` images, of which process ``i`` of ``n`` has images ``i``, ``i + n``, ...

        What samplers add behind the last image, so that each process has as many, does not count.
        """
        self._size = size
        if self.results:
            # The one time that the host waits for the device. mmengine collects a tensor of each process.
            self.results = [torch.cat(self.results).cpu()]
        return super().evaluate(size)

    def compute_metrics(self, results: List[Tensor]) -> Dict[str, float]:
        """Accuracies of images.

        Args:
            results (list[Tensor]): By process, whether each of its images is right in each sense, shape (N, senses),
                bool.

        Returns:
            dict: 'top1', 'top5', ...; with several ``thrs`` 'top1_thr-0.50', 'top1_no-thr', ...
        """
        places = torch.cat([torch.arange(len(part)) * len(results) + rank for rank, part in enumerate(results)])
        right = torch.cat(results)[places.argsort()][:self._size]
        # In single precision, as mmpretrain's.
        shares = right.float().sum(0).mul_(100. / len(right))
        return dict(zip(self._names, shares.tolist()))

    def _add(self, labels: Tensor, scores: Optional[Tensor], guesses: Optional[Tensor]) -> None:
        if scores is None and guesses is None:
            raise ValueError('the accuracy needs pred_score or pred_label of each image; the network gave neither')
        predictions = guesses if scores is None else scores.float()
        if len(labels) != len(predictions):
            raise ValueError(f'the accuracy needs one label for each prediction, got {len(labels)} for '
                             f'{len(predictions)}')
        labels = labels.to(predictions.device, torch.int64, non_blocking=True)
        if scores is None:
            self._names = ['top1']
            self.results.append(predictions.eq(labels).view(-1, 1))
            return
        count, classes = max(self.topk), predictions.shape[1]
        if count > classes:
            raise ValueError(f'topk={self.topk} of the accuracy (val_evaluator, test_evaluator) asks for the highest '
                             f'{count} scores, but there are {classes} classes')
        highest, places = predictions.topk(count, dim=1)
        right = places.eq(labels.view(-1, 1))
        self._names, columns = [], []
        for k in self.topk:
            for thr in self.thrs:
                suffix = '_no-thr' if thr is None else f'_thr-{thr:.2f}'
                self._names.append(f'top{k}' + (suffix if len(self.thrs) > 1 else ''))
                columns.append((right if thr is None else right & (highest > thr))[:, :k].any(1))
        self.results.append(torch.stack(columns, dim=1))
