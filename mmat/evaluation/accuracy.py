"""Accuracy with one copy from the device per test set."""
from typing import Any, Dict, List, Optional, Sequence

import torch
from mmpretrain.evaluation import Accuracy as MMPretrainAccuracy
from torch import Tensor

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, DataError
from mmat.registry import METRICS


@METRICS.register_module()
class Accuracy(MMPretrainAccuracy):
    """mmpretrain's accuracy in percent, bit-identical, without a copy to the host for each image.

    For each batch it keeps a boolean per image, ``topk`` and ``thrs`` on the batch's device until the end of the epoch.
    :class:`mmat.evaluation.BatchEvaluator` passes whole batches, mmengine's evaluator a dict for each image.

    Args:
        topk (int | Sequence[int]): An image is correct if its label is among the k highest scores. Defaults to (1, ).
        thrs (float | None | Sequence[float | None]): Only scores above the threshold count; None for no threshold.
            Defaults to 0.
        collect_device (str): Device on which processes exchange results, 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): Prefix of the results' names. Defaults to None, 'accuracy'.

    Raises:
        ConfigError: At run time, ``topk`` exceeds the number of classes, or the network returns neither scores nor
            predicted labels.
        DataError: At run time, the numbers of labels and predictions differ.
    """

    def process_batch(self, data_batch: Any, data_samples: BatchedSamples) -> None:
        """Process a whole batch.

        Args:
            data_batch (Any): Unused.
            data_samples (BatchedSamples): Batch with ``gt_label``, and ``pred_score`` or ``pred_label``.
        """
        self._add(data_samples.gt_label, data_samples.get('pred_score'), data_samples.get('pred_label'))

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Process a batch given as a dict for each image, see :meth:`process_batch`."""
        columns = [[each[name] for each in data_samples] if name in data_samples[0] else None
                   for name in ('gt_label', 'pred_score', 'pred_label')]
        labels, scores, predicted = columns
        others = [len(label) for label in labels if len(label) != 1]
        if others:
            raise DataError(f'Accuracy needs one label per image, got {others[0]}. Use '
                            "dict(type='mmpretrain.MultiLabelMetric') for a multi-label data set.")
        self._add(torch.cat(labels), None if scores is None else torch.stack(scores),
                  None if predicted is None else torch.cat(predicted))

    def evaluate(self, size: int) -> Dict[str, float]:
        """Compute the accuracies of ``size`` images; process ``i`` of ``n`` holds images ``i``, ``i + n``, ...

        Images that a sampler repeats to give each process the same number are excluded.
        """
        self._size = size
        if self.results:
            # The only synchronization with the device. mmengine collects one tensor from each process.
            self.results = [torch.cat(self.results).cpu()]
        return super().evaluate(size)

    def compute_metrics(self, results: List[Tensor]) -> Dict[str, float]:
        """Average the results of all processes.

        Args:
            results (list[Tensor]): For each process, correctness of its images under each criterion, bool of shape
                (N, criteria).

        Returns:
            dict: 'top1', 'top5', ...; with several ``thrs`` 'top1_thr-0.50', 'top1_no-thr', ...
        """
        positions = torch.cat([torch.arange(len(part)) * len(results) + rank for rank, part in enumerate(results)])
        correct = torch.cat(results)[positions.argsort()][:self._size]
        # In single precision, as in mmpretrain.
        accuracies = correct.float().sum(0).mul_(100. / len(correct))
        return dict(zip(self._names, accuracies.tolist()))

    def _add(self, labels: Tensor, scores: Optional[Tensor], predicted: Optional[Tensor]) -> None:
        if scores is None and predicted is None:
            raise ConfigError('Accuracy needs `pred_score` or `pred_label` of each image. The network returned none.')
        predictions = predicted if scores is None else scores.float()
        if len(labels) != len(predictions):
            raise DataError(f'Accuracy needs one label per prediction, got {len(labels)} labels and {len(predictions)} '
                            'predictions.')
        labels = labels.to(predictions.device, torch.int64, non_blocking=True)
        if scores is None:
            self._names = ['top1']
            self.results.append(predictions.eq(labels).view(-1, 1))
            return
        count, classes = max(self.topk), predictions.shape[1]
        if count > classes:
            raise ConfigError(f'Accuracy: topk={self.topk} exceeds the {classes} classes. Change it in val_evaluator '
                              'and test_evaluator.')
        highest, indices = predictions.topk(count, dim=1)
        correct = indices.eq(labels.view(-1, 1))
        self._names, columns = [], []
        for k in self.topk:
            for thr in self.thrs:
                suffix = '_no-thr' if thr is None else f'_thr-{thr:.2f}'
                self._names.append(f'top{k}' + (suffix if len(self.thrs) > 1 else ''))
                columns.append((correct if thr is None else correct & (highest > thr))[:, :k].any(1))
        self.results.append(torch.stack(columns, dim=1))
