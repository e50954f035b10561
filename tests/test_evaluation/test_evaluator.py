import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.registry import EVALUATOR, METRICS, DefaultScope
from mmpretrain.evaluation import Accuracy as MMPretrainAccuracy
from mmpretrain.evaluation import ConfusionMatrix, SingleLabelMetric
from mmpretrain.models import LinearClsHead as MMPretrainLinearClsHead
from mmpretrain.structures import DataSample
from torch.utils._python_dispatch import TorchDispatchMode

from mmat.datasets import BatchedSamples
from mmat.evaluation import Accuracy, BatchEvaluator
from mmat.models import LinearClsHead

SCORES = torch.tensor([[.7, .2, .1], [.1, .8, .1], [.5, .3, .2]])
LABELS = torch.tensor([0, 1, 2])
BATCHES = dict(type='mmat.BatchEvaluator', metrics=dict(type='mmat.Accuracy'))


def batch():
    return BatchedSamples(LABELS, [4, 5, 6], pred_score=SCORES, pred_label=SCORES.argmax(1))


class Recorder(BaseMetric):
    """A metric that keeps its inputs."""

    default_prefix = 'recorder'

    def process(self, data_batch, data_samples):
        self.results.append((data_batch, data_samples))

    def compute_metrics(self, results):
        return dict(batches=len(results))


class BatchRecorder(Recorder):
    default_prefix = 'batch_recorder'

    def process_batch(self, data_batch, data_samples):
        self.results.append((data_batch, data_samples))


def test_each_metric_gets_the_form_that_it_supports():
    whole, one, other = BatchRecorder(), Recorder(), Recorder(prefix='other')
    samples, loaded = batch(), dict(inputs=3)
    evaluator = BatchEvaluator([one, whole, other])
    evaluator.process(samples, loaded)
    assert whole.results == [(loaded, samples)] and whole.results[0][1] is samples
    (given, dicts), = one.results
    assert given is loaded and isinstance(dicts, list) and other.results[0][1] is dicts
    plain = Recorder()
    Evaluator(plain).process(batch(), loaded)
    for found, by_mmengine, image in zip(dicts, plain.results[0][1], range(3)):
        assert found.keys() == by_mmengine.keys() == {
            'gt_label', 'pred_label', 'pred_score', 'sample_idx', 'num_classes'}
        assert found['sample_idx'] == 4 + image and type(found['sample_idx']) is int
        assert found['gt_label'].tolist() == [image] and torch.equal(found['pred_score'], SCORES[image])
        assert found['pred_label'].tolist() == [[0, 1, 0][image]]
    assert len(dicts) == 3
    assert evaluator.evaluate(3) == {'recorder/batches': 1, 'batch_recorder/batches': 1, 'other/batches': 1}


def test_no_samples_are_created_for_metrics_that_take_batches(monkeypatch):
    monkeypatch.setattr(BatchedSamples, '__iter__', lambda self: pytest.fail('samples were created'))
    evaluator = BatchEvaluator([Accuracy(), BatchRecorder()])
    evaluator.process(batch())
    assert evaluator.metrics[0].evaluate(3) == {'accuracy/top1': pytest.approx(200 / 3)}


@pytest.mark.parametrize('samples', [list(batch()), [sample.to_dict() for sample in batch()]], ids=['samples', 'dicts'])
def test_lists_are_processed_as_in_mmengine(samples):
    metrics = [Accuracy(), BatchRecorder()]
    BatchEvaluator(metrics).process(samples)
    assert [type(each) for each in metrics[1].results[0][1]] == [dict] * 3
    assert metrics[0].evaluate(3) == {'accuracy/top1': pytest.approx(200 / 3)}


def test_changes_to_samples_count():
    samples = batch()
    # As a custom classifier may do before it returns the batch.
    samples[2].set_pred_score(torch.tensor([0., 0., 1.]))
    evaluator = BatchEvaluator(Accuracy())
    evaluator.process(samples)
    assert evaluator.evaluate(3) == {'accuracy/top1': 100.}


def test_reading_samples_changes_nothing():
    samples, metric = batch(), BatchRecorder()
    assert samples[-1].sample_idx == 6 and len(list(samples)) == 3
    BatchEvaluator(metric).process(samples)
    assert metric.results[0][1] is samples


def test_other_metrics_of_mmpretrain():
    metrics = [ConfusionMatrix(), SingleLabelMetric(average=None), Accuracy(), MMPretrainAccuracy(prefix='mmpretrain')]
    evaluator = BatchEvaluator(metrics)
    evaluator.dataset_meta = dict(classes=('a', 'b', 'c'))
    evaluator.process(batch())
    result = evaluator.evaluate(3)
    assert result['confusion_matrix/result'].tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert result['single-label/recall_classwise'] == [100., 100., 0.]
    assert result['accuracy/top1'] == result['mmpretrain/top1'] == pytest.approx(200 / 3)
    assert metrics[2].dataset_meta == dict(classes=('a', 'b', 'c'))


def test_offline_evaluation():
    dicts = [sample.to_dict() for sample in batch()]
    assert BatchEvaluator(Accuracy()).offline_evaluate(dicts) == {'accuracy/top1': pytest.approx(200 / 3)}


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmat'])
def test_builds_from_any_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        evaluator = EVALUATOR.build(dict(type='mmat.BatchEvaluator', metrics=[
            dict(type='mmat.Accuracy', topk=(1, 5)), dict(type='mmpretrain.ConfusionMatrix')]))
        assert type(METRICS.build(dict(type='mmpretrain.Accuracy'))) is MMPretrainAccuracy
    assert type(evaluator) is BatchEvaluator
    assert [type(metric) for metric in evaluator.metrics] == [Accuracy, ConfusionMatrix]
    assert evaluator.metrics[0].topk == (1, 5)


# In a run

class HostReads(TorchDispatchMode):
    """Counts synchronizations with an accelerator: reads of values and copies of tensors to the host."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        # On the CPU a tensor is its own copy, which no operator shows.
        for name in ('cpu', 'tolist', 'numpy'):
            self._count_calls(monkeypatch, name)

    def _count_calls(self, monkeypatch, name):
        method = getattr(torch.Tensor, name)

        def counted(tensor, *args, **kwargs):
            self.count += 1
            return method(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def validation_run(make_runner, network_config, evaluator, images, batch_size=10, **settings):
    return make_runner(network_config(), validate=True, work_dir=f'run_{images}', **{
        'val_evaluator': evaluator, 'val_dataloader.batch_size': batch_size, 'val_dataloader.dataset.indices': images,
        **settings})


def host_reads(runner, monkeypatch):
    loop = runner.build_val_loop(runner._val_loop)
    with monkeypatch.context() as patch, HostReads(patch) as reads:
        metrics = loop.run()
    assert 'accuracy/top1' in metrics
    return reads.count


def test_synchronizations_do_not_depend_on_the_number_of_images(make_runner, network_config, monkeypatch):
    found = [host_reads(validation_run(make_runner, network_config, BATCHES, count), monkeypatch)
             for count in (20, 40, 160)]
    # One for the metrics, the rest for the sampler and RNG states.
    assert found[0] == found[1] == found[2] < 20
    # Verify the counter with mmpretrain's metric.
    counts = [host_reads(validation_run(make_runner, network_config, dict(type='mmpretrain.Accuracy'), count),
                         monkeypatch) for count in (20, 40)]
    assert counts[1] - counts[0] == 2 * 20


def test_one_sample_is_created_per_batch_which_mmengine_reads(make_runner, network_config, monkeypatch):
    made = []
    monkeypatch.setattr(DataSample, '__init__', lambda self, **kwargs: (
        made.append(1), super(DataSample, self).__init__(**kwargs))[0])
    loop = validation_run(make_runner, network_config, BATCHES, 95)
    loop.build_val_loop(loop._val_loop).run()
    assert len(made) == 10


@pytest.mark.parametrize('head', [LinearClsHead, MMPretrainLinearClsHead])
def test_every_way_through_a_run_gives_the_same(head, make_runner, network_config, tmp_path):
    network = network_config()
    network['head'].update(type=head, loss=dict(type='mmpretrain.CrossEntropyLoss'))
    ways = [BATCHES, dict(type='mmat.Accuracy'), dict(type='mmpretrain.Accuracy'),
            dict(type='mmat.BatchEvaluator', metrics=dict(type='mmpretrain.Accuracy')),
            dict(type='Evaluator', metrics=dict(type='mmat.Accuracy'))]
    drawn = {'default_hooks.visualization': dict(
        type='mmpretrain.VisualizationHook', enable=True, interval=20, out_dir=str(tmp_path / 'seen')),
             'visualizer': dict(type='mmpretrain.UniversalVisualizer', vis_backends=None),
             'val_dataloader.batch_size': 25}
    found = set()
    for number, evaluator in enumerate(ways):
        runner = make_runner(network, work_dir=f'way_{number}', epochs=1, validate=True, val_evaluator=evaluator,
                             **(drawn if number == 0 else {}))
        runner.train()
        found.add(runner.message_hub.get_scalar('val/accuracy/top1').current())
    assert len(found) == 1 and 0 < found.pop() < 100
    # Hooks find the predictions.
    assert len(list((tmp_path / 'seen').glob('*'))) == 3
