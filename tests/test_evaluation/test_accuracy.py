import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmpretrain.evaluation import Accuracy as MMPretrainAccuracy

from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, DataError
from mmat.evaluation import Accuracy, BatchEvaluator

NAN = float('nan')
# One image per row. The label has the highest, second, third score; the highest, but negative; NaN.
SCORES = torch.tensor([[.9, .05, .05], [.3, .6, .1], [.2, .3, .5], [-3, -1, -2], [.1, NAN, .2]])
LABELS = torch.tensor([0, 0, 0, 1, 1])


def by_batch(metric, batch_sizes=(2, 3), scores=SCORES, labels=LABELS, **fields):
    """Evaluate a metric on predictions processed in batches."""
    evaluator = BatchEvaluator(metric)
    fields = dict(fields, gt_label=labels, **({} if scores is None else dict(pred_score=scores)))
    for parts in zip(*(value.split(batch_sizes) for value in fields.values())):
        evaluator.process(BatchedSamples(**dict(zip(fields, parts))))
    return evaluator.evaluate(len(labels))


def by_image(metric, scores=SCORES, labels=LABELS):
    evaluator = Evaluator(metric)
    evaluator.process(list(BatchedSamples(labels, pred_score=scores)))
    return evaluator.evaluate(len(labels))


# By hand: torch ranks NaN highest, and NaN is above no threshold.
@pytest.mark.parametrize('options, expected', [
    (dict(), {'accuracy/top1': 1 / 5}),
    (dict(thrs=None), {'accuracy/top1': 3 / 5}),
    (dict(topk=2), {'accuracy/top2': 2 / 5}),
    (dict(thrs=(None, .9)), {'accuracy/top1_no-thr': 3 / 5, 'accuracy/top1_thr-0.90': 0}),
    (dict(topk=(1, 3), prefix='mine'), {'mine/top1': 1 / 5, 'mine/top3': 3 / 5}),
    (dict(topk=(1, 2), thrs=(.25, None, .5)), {
        'accuracy/top1_thr-0.25': 1 / 5, 'accuracy/top1_no-thr': 3 / 5, 'accuracy/top1_thr-0.50': 1 / 5,
        'accuracy/top2_thr-0.25': 2 / 5, 'accuracy/top2_no-thr': 4 / 5, 'accuracy/top2_thr-0.50': 1 / 5}),
])
@pytest.mark.parametrize('measure', [by_batch, by_image])
def test_by_hand(options, expected, measure):
    assert measure(Accuracy(**options)) == pytest.approx({name: 100 * share for name, share in expected.items()})


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('options', [dict(topk=(1, )), dict(topk=(5, 1, 2), thrs=(-.5, 0., None)), dict(thrs=None)])
def test_bit_identical_to_mmpretrain(options, dtype):
    generator = torch.Generator().manual_seed(0)
    # Few distinct values produce many ties, which torch breaks in the same way for both metrics.
    scores = torch.randint(-4, 5, (997, 7), generator=generator) / 4
    # They differ in float64 only, but metrics use float32.
    scores = (scores.double() + 1e-12 * torch.randn(997, 7, generator=generator)).to(dtype)
    scores[torch.rand(997, 7, generator=generator) < 0.05] = NAN
    labels = torch.randint(0, 7, (997, ), generator=generator)
    expected = by_image(MMPretrainAccuracy(**options), scores, labels)
    assert len(set(expected.values())) > len(expected) / 2
    assert by_batch(Accuracy(**options), 100, scores, labels) == expected
    assert by_image(Accuracy(**options), scores, labels) == expected


def test_of_predicted_labels():
    fields = dict(scores=None, labels=torch.tensor([2, 1, 1]), pred_label=torch.tensor([2, 0, 1]))
    # mmpretrain names the result top1 for any topk.
    found = by_batch(Accuracy(topk=(5, )), 1, **fields)
    assert found == by_batch(MMPretrainAccuracy(topk=(5, )), 1, **fields)
    assert found == {'accuracy/top1': pytest.approx(200 / 3)}


def test_each_epoch_starts_from_zero():
    evaluator = BatchEvaluator(Accuracy())
    for label, expected in ((1, 100.), (0, 0.)):
        evaluator.process(BatchedSamples(torch.tensor([label]), pred_score=torch.tensor([[.2, .8]])))
        assert evaluator.evaluate(1) == {'accuracy/top1': expected}


def test_images_beyond_the_dataset_do_not_count():
    for metric in (Accuracy(), MMPretrainAccuracy()):
        evaluator = BatchEvaluator(metric)
        evaluator.process(BatchedSamples(LABELS, pred_score=SCORES))
        assert evaluator.evaluate(2) == {'accuracy/top1': 50.}


@pytest.mark.parametrize('process', ['process', 'process_batch'])
def test_nothing_is_copied_before_the_end(process):
    # 'meta' stands for an accelerator: reading a value fails.
    batch = BatchedSamples(LABELS, pred_score=SCORES).to('meta')
    given = batch if process == 'process_batch' else [sample.to_dict() for sample in batch]
    metric = Accuracy(topk=(1, 2), thrs=(None, .5))
    getattr(metric, process)(None, given)
    assert [each.shape for each in metric.results] == [(5, 4)] and metric.results[0].device.type == 'meta'
    with pytest.raises(NotImplementedError, match='meta'):
        metric.evaluate(5)


def test_labels_may_be_on_another_device():
    metric = Accuracy()
    metric.process_batch(None, BatchedSamples(LABELS, pred_score=SCORES.to('meta')))
    assert metric.results[0].device.type == 'meta'


@pytest.mark.parametrize('fields, error, message', [
    (dict(), ConfigError, '`pred_score`.*`pred_label`'),
    (dict(pred_score=SCORES), ConfigError, r'topk=\(1, 4\) .* 3 classes.*val_evaluator .*test_evaluator'),
    (dict(pred_score=SCORES[:3]), DataError, '5 labels .*3 predictions'),
])
def test_refuses(fields, error, message):
    with pytest.raises(error, match=message):
        Accuracy(topk=(1, 4)).process_batch(None, BatchedSamples(LABELS, **fields))


# Several processes

PROCESSES = 3
# With three processes, two images of seven are repeated, none of six, one of two.
SIZES = (7, 6, 2)


def images(size):
    """All are correct except the first and the last. Samplers repeat the first ones."""
    scores = torch.eye(4)[torch.arange(size) % 4] + torch.tensor([.2, .1, .1, .1])
    labels = torch.arange(size) % 4
    labels[[0, -1]] = (labels[[0, -1]] + 1) % 4
    return scores, labels


def in_processes(rank, folder, port):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=PROCESSES)
    results = []
    for size in SIZES:
        scores, labels = images(size)
        for round_up in (True, False):
            mine = torch.tensor(list(DefaultSampler(range(size), shuffle=False, round_up=round_up)), dtype=torch.int64)
            for device in ('cpu', 'gpu'):
                options = dict(topk=(1, 2), collect_device=device)
                evaluator = BatchEvaluator([Accuracy(**options), MMPretrainAccuracy(**options, prefix='mmpretrain')])
                for part in mine.split(2):
                    if len(part):
                        evaluator.process(BatchedSamples(labels[part], pred_score=scores[part]))
                results.append((size, evaluator.evaluate(size)))
    torch.save(results, f'{folder}/{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()


def test_several_processes_measure_what_one_does(tmp_path, monkeypatch):
    # mmengine leaves a folder behind.
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    # Spawned processes would import everything again, which takes longer than the test.
    mp.start_processes(in_processes, (str(tmp_path), port), nprocs=PROCESSES, start_method='fork')
    results = [torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(PROCESSES)]
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 4 * len(SIZES)
    for size, found in results[0]:
        # Two images are wrong, however often they were repeated.
        assert found['accuracy/top1'] == pytest.approx(100 * (size - 2) / size)
        assert all(found[f'accuracy/top{k}'] == found[f'mmpretrain/top{k}'] for k in (1, 2))
