"""Linear classification head for batches whose labels are one tensor."""
from mmpretrain.models import LinearClsHead as MMPretrainLinearClsHead

from mmat.registry import MODELS


class _Labels:
    """One tensor of labels, in the form that mmpretrain's heads read: a list of samples, here of one."""

    def __init__(self, gt_label):
        self.gt_label = gt_label

    def __contains__(self, field):
        return field == 'gt_label'


@MODELS.register_module()
class LinearClsHead(MMPretrainLinearClsHead):
    """mmpretrain's linear head; reads the labels of :class:`mmat.datasets.BatchedSamples` as one tensor.

    Collecting them from one DataSample per image costs more than loading and augmenting the batch. Any other
    mmpretrain head works on these batches too, at that cost. Arguments as mmpretrain's.
    """

    def __init__(self, *args, loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0), **kwargs):
        # mmpretrain's own default has no prefix, so it builds in mmpretrain's scope only.
        super().__init__(*args, loss=loss, **kwargs)

    def _get_loss(self, cls_score, data_samples, **kwargs):
        if hasattr(data_samples, 'gt_label'):
            data_samples = [_Labels(data_samples.gt_label)]
        return super()._get_loss(cls_score, data_samples, **kwargs)
