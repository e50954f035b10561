import copy
import pickle

import numpy as np
import pytest
import torch
from device_reads import Reads
from mmengine.logging import HistoryBuffer

from mmat.engine import ScalarHistory

VALUES = [0.1, 3, -2.5, 1e30, 0.1, 7]


@pytest.mark.parametrize('max_length', [1000000, 4, 1])
@pytest.mark.parametrize('count', [1, 3])
def test_it_is_mmengines(max_length, count):
    """Value by value, of enough values for the arrays to grow several times."""
    mine, theirs = ScalarHistory(max_length=max_length), HistoryBuffer(max_length=max_length)
    generator = np.random.default_rng(0)
    for value in [*VALUES, *generator.normal(size=300).tolist()]:
        for history in (mine, theirs):
            history.update(value, count)
        for one, other in zip(mine.data, theirs.data):
            np.testing.assert_array_equal(one, other)
        for window in (None, 1, 2, 10):
            for statistic in ('mean', 'min', 'max'):
                assert mine.statistics(statistic, window) == theirs.statistics(statistic, window)
        assert mine.current() == theirs.current() == value


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_a_tensor_is_what_item_gives(dtype):
    mine, theirs = ScalarHistory(), HistoryBuffer()
    for step, value in enumerate([0.1, 3, -2.5, 7.7]):
        tensor = torch.tensor([value] if step % 2 else value).to(dtype)
        mine.update(tensor)
        theirs.update(tensor.item())
    np.testing.assert_array_equal(mine.data[0], theirs.data[0])
    np.testing.assert_array_equal(mine.data[1], [1, 1, 1, 1])


def test_the_order_is_kept_whatever_comes():
    history = ScalarHistory()
    for value in (torch.tensor(1.), 2, torch.tensor(3), torch.tensor(4., dtype=torch.bfloat16), 5.):
        history.update(value)
    history.update(torch.tensor(6.), 2)
    assert history.data[0].tolist() == [1, 2, 3, 4, 5, 6] and history.data[1].tolist() == [1, 1, 1, 1, 1, 2]


def test_tensors_wait_until_someone_reads():
    history = ScalarHistory()
    with Reads() as reads:
        for value in range(500):
            history.update(torch.tensor(float(value)))
        assert reads.count == 0
        assert history.current() == 499 and history.mean(2) == 498.5


def test_the_number_of_pending_tensors_is_bounded():
    history = ScalarHistory()
    for value in range(2500):
        history.update(torch.tensor(float(value)))
    assert len(history._pending) <= 1000
    assert history.data[0].tolist() == list(range(2500))


def test_a_tensor_waits_as_it_was_and_alone():
    history = ScalarHistory()
    large = torch.arange(10000., requires_grad=True)
    history.update(large[3])
    waiting, = history._pending
    assert not waiting.requires_grad and waiting.untyped_storage().nbytes() == 4
    assert history.current() == 3


@pytest.mark.parametrize('value, error, message', [
    (torch.ones(2), ValueError, r'\(2,\)'),
    ('three', TypeError, "'three'"),
])
def test_a_value_that_is_not_a_scalar_is_refused(value, error, message):
    history = ScalarHistory()
    with pytest.raises(error, match=message):
        history.update(value)
    assert history.data[0].size == 0


def test_it_begins_with_what_another_held_and_copies_are_mmengines():
    history = ScalarHistory([1., 2.], [1, 4])
    history.update(torch.tensor(3.))
    for other in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert type(other) is HistoryBuffer
        assert other.data[0].tolist() == [1, 2, 3] and other.data[1].tolist() == [1, 4, 1]
        assert other.mean() == 1


def test_memory_is_bounded_by_the_length_that_is_kept():
    history = ScalarHistory(max_length=100)
    for value in range(100000):
        history.update(value)
    assert history._arrays.shape[1] <= 500
    assert history.data[0].tolist() == list(range(99900, 100000))
