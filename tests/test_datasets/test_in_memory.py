import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.runner import Runner
from mmpretrain.evaluation import Accuracy
from mmpretrain.structures import DataSample
from torch.utils.data import ConcatDataset, DataLoader, Subset

from mmat.datasets import BatchedSamples, Digits, InMemoryDataset, keep_batch
from mmat.errors import ConfigError
from mmat.models import BatchPreprocessor

CLASSES = ['a', 'b', 'c']


def dataset(indices=None, count=7):
    """Image i holds i everywhere and has label i % 3."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()
    return InMemoryDataset(images, torch.arange(count) % 3, CLASSES, indices)


def contents(data):
    return data.images[:, 0, 0, 0].tolist()


# InMemoryDataset

@pytest.mark.parametrize('indices, expected', [
    (None, [0, 1, 2, 3, 4, 5, 6]),
    (3, [0, 1, 2]),
    (7, [0, 1, 2, 3, 4, 5, 6]),
    (-3, [4, 5, 6]),
    (-7, [0, 1, 2, 3, 4, 5, 6]),
    ([5, 0, 5], [5, 0, 5]),
    (range(1, 7, 2), [1, 3, 5]),
    (np.array([6, 2]), [6, 2]),
    (torch.tensor([6, 2]), [6, 2]),
])
def test_indices(indices, expected):
    data = dataset(indices)
    assert len(data) == len(expected)
    assert contents(data) == expected
    assert data.labels.tolist() == [i % 3 for i in expected]


@pytest.mark.parametrize('indices', [0, 8, -8, [], [7], [-1], [0, 99]])
def test_refuses_indices_outside_the_dataset(indices):
    with pytest.raises(ConfigError, match='indices.*7 images') as error:
        dataset(indices)
    assert repr(indices) in str(error.value)


def test_classes():
    assert dataset().metainfo == dict(classes=('a', 'b', 'c'))


def test_an_item():
    item = dataset()[4]
    assert item['inputs'].dtype == torch.uint8
    assert torch.equal(item['inputs'], torch.full((3, 2, 2), 4, dtype=torch.uint8))
    assert isinstance(item['data_samples'], DataSample)
    assert item['data_samples'].gt_label.tolist() == [1]
    assert item['data_samples'].sample_idx == 4


def test_an_item_counted_from_the_end():
    data = dataset()
    assert data[-1]['data_samples'].sample_idx == 6 and data[-1]['inputs'][0, 0, 0] == 6
    for index in (7, -8):
        with pytest.raises(IndexError):
            data[index]


def test_a_batch():
    batch = dataset().__getitems__([6, 1])
    assert batch['inputs'].shape == (2, 3, 2, 2)
    assert batch['inputs'][:, 0, 0, 0].tolist() == [6, 1]
    assert batch['data_samples'].gt_label.tolist() == [0, 1]
    assert batch['data_samples'].sample_idx.tolist() == [6, 1]


def test_a_batch_is_a_copy():
    data = dataset()
    data.__getitems__([0, 1])['inputs'].fill_(99)
    assert contents(data) == [0, 1, 2, 3, 4, 5, 6]


def test_a_loader_reads_whole_batches_and_keeps_the_last_short_one():
    batches = list(DataLoader(dataset(), batch_size=3, collate_fn=keep_batch))
    assert [batch['inputs'][:, 0, 0, 0].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch['data_samples'].gt_label.tolist() for batch in batches] == [[0, 1, 2], [0, 1, 2], [0]]


def test_a_shuffling_loader_keeps_images_and_labels_together():
    loader = DataLoader(dataset(count=50), batch_size=16, shuffle=True, collate_fn=keep_batch,
                        generator=torch.Generator().manual_seed(0))
    pairs = [(image, label) for batch in loader
             for image, label in zip(batch['inputs'][:, 0, 0, 0].tolist(), batch['data_samples'].gt_label.tolist())]
    assert pairs != sorted(pairs)
    assert sorted(pairs) == [(i, i % 3) for i in range(50)]


def test_a_subset_of_it_works():
    batch, = DataLoader(Subset(dataset(), [2, 4]), batch_size=2, collate_fn=keep_batch)
    assert batch['inputs'][:, 0, 0, 0].tolist() == [2, 4]


def test_mmengine_builds_its_loader_from_a_config():
    loader = Runner.build_dataloader(dict(
        batch_size=4, num_workers=0, dataset=dataset(), sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='mmat.keep_batch')))
    assert [len(batch['data_samples']) for batch in loader] == [4, 3]
    assert MMENGINE_FUNCTIONS.get('mmat.keep_batch') is keep_batch


# Wrappers and collate functions, against plain indexing

DIGITS = dict(type='mmat.Digits', split='train', indices=list(range(12)))
OTHERS = dict(DIGITS, indices=[40, 3, 77])
# The dataset, and the positions of its images among the training images.
WRAPPED = {
    'plain': (lambda: Digits('train', indices=12), [*range(12)]),
    'RepeatDataset': (lambda: dict(type='RepeatDataset', times=3, dataset=DIGITS), [*range(12)] * 3),
    'ConcatDataset': (lambda: dict(type='ConcatDataset', datasets=[OTHERS, DIGITS]), [40, 3, 77, *range(12)]),
    'nested': (lambda: dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[OTHERS] * 2)),
               [40, 3, 77] * 4),
    'Subset': (lambda: Subset(Digits('train', indices=12), [5, 0, 5, 11]), [5, 0, 5, 11]),
    'ConcatDataset of torch': (lambda: ConcatDataset([Digits('train', indices=2), Digits('train', indices=[9, 8])]),
                               [0, 1, 9, 8]),
    'Subset of ConcatDataset': (
        lambda: Subset(ConcatDataset([Digits('train', indices=4), Digits('train', indices=[9])]), [4, 1]), [9, 1]),
}


@pytest.mark.parametrize('collate', ['mmat.keep_batch', 'pseudo_collate', 'default_collate', None])
@pytest.mark.parametrize('wrapper', WRAPPED)
def test_wrappers_read_the_same_images_and_labels(wrapper, collate):
    make, positions = WRAPPED[wrapper]
    config = dict(batch_size=5, num_workers=0, dataset=make(), sampler=dict(type='DefaultSampler', shuffle=False))
    loader = Runner.build_dataloader(dict(config, collate_fn=dict(type=collate)) if collate else config)
    train = Digits('train')
    batches = list(loader)
    assert [len(batch['inputs']) for batch in batches] == [
        min(5, len(positions) - start) for start in range(0, len(positions), 5)]
    preprocess = BatchPreprocessor()
    images = torch.cat([preprocess(batch)['inputs'] for batch in batches])
    samples = [sample for batch in batches for sample in batch['data_samples']]
    assert torch.equal(images, train.images[positions].float())
    assert [sample.gt_label.tolist() for sample in samples] == [[label] for label in train.labels[positions].tolist()]
    assert all(isinstance(sample, DataSample) for sample in samples)
    for batch in batches:
        assert isinstance(batch['data_samples'], BatchedSamples) == (collate == 'mmat.keep_batch')
    if 'Subset' not in wrapper and 'torch' not in wrapper:
        assert loader.dataset.metainfo == dict(classes=tuple('0123456789'))


def test_positions_of_items_survive_wrappers_and_keep_batch():
    data = MMENGINE_DATASETS.build(dict(type='RepeatDataset', times=2, dataset=DIGITS))
    assert keep_batch([data[5], data[12]])['data_samples'].sample_idx.tolist() == [5, 0]


def test_a_class_balanced_wrapper_repeats_rare_classes():
    train = Digits('train')
    often = [index for index in range(200) if train.labels[index] == 3][:15]
    rare = next(index for index in range(200) if train.labels[index] == 7)
    data = MMENGINE_DATASETS.build(dict(type='ClassBalancedDataset', oversample_thr=0.25,
                                        dataset=dict(DIGITS, indices=[*often, rare])))
    # The class of one image in 16 has the repeat factor sqrt(0.25 * 16) = 2.
    expected = [*often, rare, rare]
    assert len(data) == 17 and data.get_cat_ids(16) == [7] and data.get_data_info(0) == dict(gt_label=3)
    batch = keep_batch([data[index] for index in range(17)])
    assert torch.equal(batch['inputs'], train.images[expected])
    assert batch['data_samples'].gt_label.tolist() == train.labels[expected].tolist()


def test_a_batch_is_a_dict_and_a_sequence_of_items():
    batch = dataset().__getitems__([6, 1])
    assert set(batch.keys()) == {'inputs', 'data_samples'} and type(keep_batch(batch)) is dict
    assert [item['inputs'][0, 0, 0].item() for item in batch] == [6, 1]
    assert [sample.sample_idx for sample in pseudo_collate(batch)['data_samples']] == [6, 1]
    for key, error in ((2, IndexError), ('inptus', KeyError)):
        with pytest.raises(error):
            batch[key]


def test_keep_batch_loses_nothing_of_other_datasets_samples():
    items = [dict(inputs=torch.full((3, 2, 2), i), data_samples=DataSample(metainfo=dict(img_path=f'{i}.png')))
             for i in range(2)]
    batch = keep_batch([dict(item, data_samples=item['data_samples'].set_gt_score(torch.ones(3))) for item in items])
    assert batch['inputs'][:, 0, 0, 0].tolist() == [0, 1]
    assert [sample.img_path for sample in batch['data_samples']] == ['0.png', '1.png']
    assert all('gt_score' in sample for sample in batch['data_samples'])


def test_workers_read_the_same_batches():
    loaders = [DataLoader(dataset(), batch_size=3, collate_fn=keep_batch, num_workers=number) for number in (0, 2)]
    for here, there in zip(*loaders):
        assert torch.equal(here['inputs'], there['inputs'])
        assert torch.equal(here['data_samples'].gt_label, there['data_samples'].gt_label)
        assert here['data_samples'].sample_idx.tolist() == there['data_samples'].sample_idx.tolist()


# BatchedSamples

def test_batched_samples_behave_like_a_list_of_data_samples():
    samples = BatchedSamples(torch.tensor([4, 0, 2]), [10, 11, 12])
    assert len(samples) == 3
    assert [sample.gt_label.tolist() for sample in samples] == [[4], [0], [2]]
    assert [sample.sample_idx for sample in samples] == [10, 11, 12]
    assert samples[1].gt_label.tolist() == [0] and samples[-1].gt_label.tolist() == [2]
    assert torch.cat([sample.gt_label for sample in samples]).tolist() == [4, 0, 2]
    assert samples[0].gt_label.dtype == torch.int64
    assert all(isinstance(sample, DataSample) for sample in samples)


def test_positions_may_be_left_out():
    assert 'sample_idx' not in BatchedSamples(torch.tensor([1]))[0]


def test_changes_to_a_sample_persist():
    batch = BatchedSamples(torch.tensor([2, 0, 1]), [7, 8, 9])
    for sample, label in zip(batch, (0, 1, 2)):
        sample.set_pred_label(label)
    assert [sample.pred_label.item() for sample in batch] == [0, 1, 2]
    assert batch[-1] is batch[2] and batch[1].sample_idx == 8
    # A copy has separate samples, on its device.
    assert 'pred_label' not in batch.to('cpu')[0]
    assert set(batch.keys()) == {'gt_label'}
    with pytest.raises(IndexError):
        batch[3]
    assert batch[1:] == [batch[1], batch[2]]
    # New labels reach the samples.
    batch.gt_label = torch.tensor([9, 9, 9])
    assert [sample.gt_label.item() for sample in batch] == [9, 9, 9]


def test_samples_follow_their_batch_to_its_device():
    # 'meta' stands for an accelerator, where a label left on the CPU would fail in the loss.
    samples = BatchedSamples(torch.tensor([1, 2]), [3, 4], pred_score=torch.rand(2, 3)).to('meta')
    assert samples.gt_label.device.type == samples.pred_score.device.type == 'meta'
    assert samples.sample_idx.tolist() == [3, 4]
    for sample in (*samples, samples[-1]):
        assert sample.gt_label.device.type == sample.pred_score.device.type == 'meta'


def batch_with_predictions():
    scores = torch.tensor([[.1, .9], [.8, .2], [.3, .7]])
    return BatchedSamples(torch.tensor([1, 1, 0]), [7, 8, 9], pred_score=scores, pred_label=scores.argmax(1))


@pytest.mark.parametrize('read', [list, lambda batch: batch[:], lambda batch: [batch[i - 3] for i in range(3)]])
def test_samples_have_the_predictions_of_their_batch(read):
    batch = batch_with_predictions()
    samples = read(batch)
    for sample, label, truth, score, index in zip(samples, (1, 0, 1), (1, 1, 0), batch.pred_score, (7, 8, 9)):
        expected = DataSample().set_gt_label(truth).set_pred_score(score).set_pred_label(label)
        expected.set_metainfo(dict(sample_idx=index))
        found, expected = sample.to_dict(), expected.to_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) if torch.is_tensor(value) else value == expected[key]
                   for key, value in found.items())
    assert len(samples) == 3 and all(sample is again for sample, again in zip(samples, batch))


def test_predictions_reach_existing_samples():
    # As after a hook that reads a sample before the forward pass.
    batch = BatchedSamples(torch.tensor([1, 0]))
    sample = batch[1]
    sample.set_metainfo(dict(img_path='a.png'))
    batch.pred_score = torch.tensor([[.1, .9], [.8, .2]])
    batch.pred_label = torch.tensor([1, 0])
    assert batch[1] is sample and sample.img_path == 'a.png'
    assert sample.pred_label.tolist() == [0] and sample.pred_score.tolist() == batch.pred_score[1].tolist()
    assert batch[0].pred_label.tolist() == [1]
    assert batch.untouched()


@pytest.mark.parametrize('write', [
    lambda sample: sample.set_pred_score(torch.tensor([1., 0.])), lambda sample: sample.set_gt_label(0),
    lambda sample: sample.set_gt_score(torch.tensor([1., 0.])), lambda sample: sample.pop('pred_label'),
])
def test_a_batch_detects_changed_samples(write):
    batch = batch_with_predictions()
    assert batch.untouched()
    assert list(batch)[1].pred_label.tolist() == [0] and batch.untouched()
    write(batch[1])
    assert not batch.untouched()
    # A copy has separate samples.
    assert batch.to('cpu').untouched()


@pytest.mark.parametrize('positions', [[5, 3], np.array([5, 3]), range(5, 1, -2), torch.tensor([5, 3])])
def test_positions_are_an_array_in_batches_and_integers_in_samples(positions):
    batch = BatchedSamples(torch.tensor([1, 2]), positions)
    for each in (batch, batch.to('cpu'), batch.clone()):
        assert isinstance(each.sample_idx, np.ndarray) and each.sample_idx.tolist() == [5, 3]
        assert [type(sample.sample_idx) for sample in each] == [int, int]
        assert [sample.sample_idx for sample in each] == [5, 3]


def test_mmpretrains_metric_reads_them():
    predictions = [1, 2, 2]
    samples = [sample.set_pred_label(label)
               for sample, label in zip(BatchedSamples(torch.tensor([1, 2, 0])), predictions)]
    metric = Accuracy()
    metric.process(None, [sample.to_dict() for sample in samples])
    assert metric.evaluate(3) == {'accuracy/top1': pytest.approx(200 / 3)}
