"""Hands predictions to metrics by the batch."""
from typing import Any, Optional, Sequence, Union

from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

from mmat.datasets import BatchedSamples
from mmat.registry import EVALUATORS


@EVALUATORS.register_module()
class BatchEvaluator(Evaluator):
    """mmengine's evaluator, which gives a :class:`mmat.datasets.BatchedSamples` whole to metrics that can take it.

    Those have a method ``process_batch(data_batch, data_samples)``; :class:`mmat.evaluation.Accuracy` does. Any other
    gets a dict for each image, as from mmengine's, and so do all where the predictions come as a list of DataSamples,
    or where somebody has written others on the DataSamples of a batch.

    Args:
        metrics (dict | BaseMetric | Sequence): As mmengine's takes them.
    """

    def process(self,
                data_samples: Union[BatchedSamples, Sequence[BaseDataElement]],
                data_batch: Optional[Any] = None) -> None:
        """Hand the predictions of a batch to each metric.

        Args:
            data_samples (BatchedSamples | Sequence[BaseDataElement]): Predictions and labels.
            data_batch (Any, optional): What the loader gave. Defaults to None.
        """
        if not isinstance(data_samples, BatchedSamples) or not data_samples.untouched():
            return super().process(data_samples, data_batch)
        by_image = None
        for metric in self.metrics:
            if hasattr(metric, 'process_batch'):
                metric.process_batch(data_batch, data_samples)
                continue
            if by_image is None:
                by_image = [sample.to_dict() for sample in data_samples]
            metric.process(data_batch, by_image)
