"""Linear classification head for batches with labels in one tensor."""
from typing import List, Union

import torch.nn.functional as F
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import LinearClsHead as MMPretrainLinearClsHead
from mmpretrain.structures import DataSample
from torch import Tensor

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError
from mmat.registry import MODELS

from ..targets import read_targets


@MODELS.register_module()
class LinearClsHead(MMPretrainLinearClsHead):
    """mmpretrain's linear head, with labels and predictions of :class:`mmat.datasets.BatchedSamples` in one tensor.

    Collecting labels from one DataSample per image costs more than loading and augmenting the batch. Any other
    mmpretrain head accepts these batches too, at that cost. The training accuracy uses the highest score; mmpretrain's
    counts an image as wrong if its highest score is not positive. The arguments are mmpretrain's.
    """

    def __init__(self, *args, loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0), **kwargs):
        # mmpretrain's default has no prefix and builds only in its scope.
        super().__init__(*args, loss=loss, **kwargs)

    def _get_loss(self, cls_score: Tensor, data_samples, **kwargs) -> dict:
        target = read_targets(data_samples)
        losses = dict(loss=self.loss_module(cls_score, target, avg_factor=cls_score.size(0), **kwargs))
        if self.cal_acc:
            if target.dim() != 1:
                raise ConfigError('The option cal_acc needs labels, but mixup and cutmix replace them by scores. '
                                  'Remove cal_acc.')
            accuracy = Accuracy.calculate(cls_score, target, topk=self.topk, thrs=(None, ))
            losses.update({f'accuracy_top-{k}': value for k, value in zip(self.topk, accuracy)})
        return losses

    def _get_predictions(self, cls_score: Tensor, data_samples) -> Union[BatchedSamples, List[DataSample]]:
        if not isinstance(data_samples, BatchedSamples):
            return super()._get_predictions(cls_score, data_samples)
        data_samples.pred_score = F.softmax(cls_score, dim=1)
        data_samples.pred_label = data_samples.pred_score.argmax(dim=1)
        return data_samples
