import pytest
import torch
from mmpretrain.structures import DataSample

from mmat.datasets import BatchedSamples
from mmat.errors import DataError
from mmat.models.targets import read_targets


def scores(count):
    return [DataSample().set_gt_label(i).set_gt_score(torch.eye(10)[i]) for i in range(count)]


@pytest.mark.parametrize('samples', [
    BatchedSamples(torch.tensor([3, 1])), [DataSample().set_gt_label(3), DataSample().set_gt_label(1)]])
def test_labels(samples):
    assert torch.equal(read_targets(samples), torch.tensor([3, 1]))


def test_scores_are_read_rather_than_labels():
    assert torch.equal(read_targets(scores(3)), torch.eye(10)[:3])


def test_labels_where_not_all_have_scores():
    assert torch.equal(read_targets([*scores(2), DataSample().set_gt_label(5)]), torch.tensor([0, 1, 5]))


@pytest.mark.parametrize('samples', [
    None, [], [DataSample()], [DataSample().set_gt_label(1), DataSample()],
    [DataSample().set_gt_score(torch.eye(10)[0]), DataSample().set_gt_label(1)]])
def test_a_batch_without_labels_is_refused(samples):
    with pytest.raises(DataError, match='gt_label.*gt_score'):
        read_targets(samples)
