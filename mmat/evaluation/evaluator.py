"""An evaluator that passes whole batches to metrics."""
from typing import Any, Optional, Sequence, Union

from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

from mmat.datasets import BatchedSamples
from mmat.registry import EVALUATORS


@EVALUATORS.register_module()
class BatchEvaluator(Evaluator):
    """mmengine's evaluator with whole batches for metrics that support them.

    A :class:`mmat.datasets.BatchedSamples` is passed to metrics with a method ``process_batch(data_batch,
    data_samples)``, such as :class:`mmat.evaluation.Accuracy`. Other metrics get a dict for each image, as in mmengine.
    All metrics get dicts if the predictions are a list of DataSamples, or if the DataSamples of a batch were changed.

    Args:
        metrics (dict | BaseMetric | Sequence): Metrics or their configs.
    """

    def process(self,
                data_samples: Union[BatchedSamples, Sequence[BaseDataElement]],
                data_batch: Optional[Any] = None) -> None:
        """Pass the predictions of a batch to each metric.

        Args:
            data_samples (BatchedSamples | Sequence[BaseDataElement]): Predictions and labels.
            data_batch (Any, optional): Batch from the data loader. Defaults to None.
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
