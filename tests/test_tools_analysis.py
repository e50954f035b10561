"""tools/analysis_tools: costs, logs, predictions."""
import io
import json
import pickle
import re
from pathlib import Path

import matplotlib.image
import mmengine
import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from tool_runner import fails, run_tool

from mmat.datasets import Digits
from mmat.errors import ConfigError, DataError
from mmat.models import build_network
from mmat.tooling.complexity import image_size, measure_complexity
from mmat.tooling.logs import label_runs, read_log
from mmat.tooling.predictions import most_confused, read_predictions
from mmat.utils.zoo import list_models, zoo_index

STUDENT, = list_models('wrn16-1_[0-9]*_digits')
DISTILLATION, = list_models('wrn16-1_at-wrn16-2_*_digits')
TEACHER, = list_models('wrn16-2_[0-9]*_digits')
SHORT = ['--cfg-options', 'test_dataloader.dataset.indices=60']


# get_flops.py

def numbers(line):
    """Return parameters and operations, the last two words of a line."""
    return [int(word.replace(',', '')) for word in line.split()[-2:]]


@pytest.mark.parametrize('name', [
    'wrn16-1_1xb128_cifar10', 'wrn16-1_at-wrn16-2_1xb10_digits', 'wrn16-1-att3-concat-pc_1xb32_digits',
    'nin-thin_1xb128_cifar10', 'rn164-att2-indep-pc_1xb64_cifar100', 'vgg-att2-concat-pc_1xb128_cub'
])
def test_flops_match_the_metafile(name):
    code, output = run_tool('analysis_tools/get_flops.py', name)
    assert not code
    total, = (line for line in output.splitlines() if line.startswith('total'))
    metadata = zoo_index()[name]['Metadata']
    assert numbers(total) == [metadata['Parameters'], metadata['FLOPs']]


def test_flops_of_the_teacher_and_the_ratio():
    code, output = run_tool('analysis_tools/get_flops.py', DISTILLATION, '--depth', '0', '--shape', '32', '16')
    assert not code and '32 x 16 pixels' in output
    total, teacher, ratio = output.splitlines()[-3:]
    student, teacher = numbers(total), numbers(teacher)
    assert teacher[0] == zoo_index()[TEACHER]['Metadata']['Parameters']
    # The cost of convolutions is proportional to the pixels, 512 here and 256 in the metafile; the last layer's is not.
    for found, name, width in ((student, STUDENT, 64), (teacher, TEACHER, 128)):
        assert found[1] == 2 * (zoo_index()[name]['Metadata']['FLOPs'] - 10 * width) + 10 * width
    assert f'{student[0] / teacher[0]:.1%}' in ratio and f'{student[1] / teacher[1]:.1%}' in ratio


class Attentive(nn.Module):
    """A network with 3 * 4 * 9 HW + 2 * 4 (HW)^2 + 4 * 2 operations for H x W pixels."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1)])
        self.head = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))

    def forward(self, images, mode):
        features = self.convs[0](images).flatten(2)
        return self.head((features.softmax(1).transpose(1, 2) @ features @ features.transpose(1, 2)).mean(2)[:, :4])


def test_operations_by_hand():
    network = Attentive()
    complexity = measure_complexity(network, 6, 5)
    conv, head, pixels = 3 * 4 * 9 * 30, 8, 30
    assert complexity.operations == conv + 2 * 4 * pixels**2 + head
    assert complexity.parameters == 3 * 4 * 9 + 4 + 4 * 2 + 2 + 2 * 2
    found = {path: (each.parameters, each.operations) for path, each in complexity.modules.items()}
    assert found == {'convs': (112, conv), 'convs.0': (112, conv), 'head': (14, head), 'head.0': (10, head),
                     'head.1': (4, 0)}
    assert network.training and network.head[1].num_batches_tracked == 0


@pytest.mark.parametrize('pipeline, expected', [
    ([dict(type='mmpretrain.Resize', scale=(48, 40))], (40, 48)),
    ([dict(type='mmpretrain.ResizeEdge', scale=256, edge='short'), dict(type='mmpretrain.CenterCrop', crop_size=224)],
     (224, 224)),
    ([dict(type='mmpretrain.ResizeEdge', scale=256, edge='short')], None),
])
def test_image_size(pipeline, expected):
    pipeline = [dict(type='mmpretrain.LoadImageFromFile'), *pipeline, dict(type='mmpretrain.PackInputs')]
    config = Config(dict(test_dataloader=dict(dataset=dict(type='mmat.CUB', data_root='absent', pipeline=pipeline))))
    if expected:
        assert image_size(config) == expected
    else:
        with pytest.raises(ConfigError, match='--shape'):
            image_size(config)


def test_the_error_names_an_unsupported_size():
    message = fails('analysis_tools/get_flops.py', 'vgg-reimpl_1xb128_cifar10', '--shape', '7', '7')
    assert 'ImageClassifier' in message and '7 x 7 pixels' in message


# analyze_logs.py

def write_log(path, train, val=(), tail='', by_epoch=True):
    """Write a scalars.json with train lines (epoch, step, loss), and the accuracy in `val` after each epoch."""
    val, lines = dict(val), []
    for index, (epoch, step, loss) in enumerate(train):
        line = dict(lr=0.1, loss=loss, time=loss / 10, iter=step, step=step)
        lines.append({**line, 'epoch': epoch} if by_epoch else line)
        if (index + 1 == len(train) or train[index + 1][0] != epoch) and epoch in val:
            lines.append({'accuracy/top1': val[epoch], 'time': 7., 'step': epoch})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(map(json.dumps, lines)) + '\n' + tail)


@pytest.fixture
def resumed(tmp_path):
    """Three steps per epoch, the second and last logged; killed after epoch 3, resumed from the end of epoch 2."""
    work_dir = tmp_path / 'run'
    write_log(work_dir / '20260101_000000' / 'vis_data' / 'scalars.json', [(1, 1, 9.)])
    write_log(work_dir / '20260101_000001' / 'vis_data' / 'scalars.json',
              [(1, 2, 8.), (1, 3, 7.), (2, 5, 6.), (2, 6, 5.), (3, 8, 99.), (3, 9, 98.)],
              {1: 50., 2: 60., 3: 1.}, tail='{"lr": 0.')
    write_log(work_dir / '20260101_000002' / 'vis_data' / 'scalars.json', [(3, 8, 4.), (3, 9, 3.)], {3: 70.})
    return work_dir


def test_the_logs_of_a_resumed_run_are_joined(resumed):
    log = read_log(resumed)
    assert log.name == 'run' and log.by_epoch
    places, losses = log.curve('loss')
    assert losses.tolist() == [8, 7, 6, 5, 4, 3]
    assert places == pytest.approx(np.array([2, 3, 5, 6, 8, 9]) / 3)
    places, accuracies = log.curve('accuracy/top1')
    assert places.tolist() == [1, 2, 3] and accuracies.tolist() == [50, 60, 70]
    # From training lines, not validations.
    assert log.curve('time')[1] == pytest.approx([.8, .7, .6, .5, .4, .3])


def test_a_run_without_epochs(tmp_path):
    parts = {'20260101_000000': [(0, 10, 5.), (0, 20, 4.)], '20260101_000001': [(0, 20, 3.), (0, 30, 2.)]}
    for name, train in parts.items():
        write_log(tmp_path / 'run' / name / 'vis_data' / 'scalars.json', train, by_epoch=False)
    log = read_log(tmp_path / 'run')
    assert not log.by_epoch and 'epoch' not in log.keys
    places, losses = log.curve('loss')
    assert places.tolist() == [10, 20, 30] and losses.tolist() == [5, 3, 2]


def test_a_single_file_is_a_log(resumed, tmp_path):
    file = resumed / '20260101_000002' / 'vis_data' / 'scalars.json'
    assert read_log(file).name == read_log(file.parents[1]).name == 'run'
    assert read_log(file).curve('loss')[1].tolist() == [4, 3]
    log = read_log(resumed)
    assert label_runs([log, log]) == ['run (1)', 'run (2)'] and label_runs([log, log], ['a', 'b']) == ['a', 'b']


def test_curves_are_drawn(resumed, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr('mmat.tooling.arguments.write_figure', lambda figure, path: figures.append(figure))
    code, _ = run_tool('analysis_tools/analyze_logs.py', 'plot_curve', resumed,
                       resumed / '20260101_000002', '--keys', 'loss', 'accuracy/top1', '--out', tmp_path / 'x.png',
                       '--legend', 'whole', 'end')
    assert not code
    loss, accuracy = figures[0].axes
    assert (loss.get_ylabel(), accuracy.get_ylabel(), accuracy.get_xlabel()) == ('loss', 'accuracy/top1', 'epoch')
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ['whole', 'end']
    assert [line.get_ydata().tolist() for line in loss.lines] == [[8, 7, 6, 5, 4, 3], [4, 3]]
    assert [line.get_ydata().tolist() for line in accuracy.lines] == [[50, 60, 70], [70]]


@pytest.mark.parametrize('suffix, start', [('.png', b'\x89PNG'), ('.pdf', b'%PDF'), ('.svg', b'<?xml')])
def test_figures_are_written_in_their_format(suffix, start, resumed, tmp_path):
    path = tmp_path / f'new/curves{suffix}'
    code, output = run_tool('analysis_tools/analyze_logs.py', 'plot_curve', resumed, '--out', path)
    assert not code and str(path) in output
    assert path.read_bytes().startswith(start) and [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize('words, mean, slowest, fastest', [
    # Without the first line of each epoch: epochs of 0.7, 0.5, 0.3 s.
    ([], 0.5, (1, 0.7), (3, 0.3)),
    (['--include-outliers'], 0.55, (1, 0.75), (3, 0.35)),
])
def test_train_times(words, mean, slowest, fastest, resumed):
    code, output = run_tool('analysis_tools/analyze_logs.py', 'cal_train_time', resumed, *words)
    assert not code
    assert f'run: {mean:.4f} s' in output
    assert f'slowest epoch {slowest[0]}: {slowest[1]:.4f} s' in output
    assert f'fastest epoch {fastest[0]}: {fastest[1]:.4f} s' in output
    assert f'3 epochs: {np.std([0.7, 0.5, 0.3]):.4f} s' in output


@pytest.mark.parametrize('words, parts', [
    (['run', '--keys', 'accuracy/top_1', '--out', 'x.png'], (' run ', "'accuracy/top_1'", "'accuracy/top1'")),
    (['run', '--keys', 'zzz', '--out', 'x.png'], (' run ', "'zzz'", 'accuracy/top1, loss, lr, time')),
    (['rum', '--out', 'x.png'], ("'rum'", 'scalars.json')),
    (['.', '--out', 'x.png'], ("'.'", 'scalars.json')),
    (['other.json', '--out', 'x.png'], ("'other.json'", 'line 1 ', "'[1]'")),
    (['run', '--out', 'x.jpg'], ('--out', '.png, .pdf or .svg', "'x.jpg'")),
    (['run', '--legend', 'a', 'b', '--out', 'x.png'], ('--legend', '2 names', '1 runs')),
    (['run', 'iterations', '--out', 'x.png'], ('epochs', 'iterations')),
])
def test_a_mistake_with_logs_is_one_line(words, parts, resumed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('other.json').write_text('[1]\n')
    write_log(Path('iterations/20260101_000000/vis_data/scalars.json'), [(0, 10, 5.)], by_epoch=False)
    message = fails('analysis_tools/analyze_logs.py', 'plot_curve', *words)
    for part in parts:
        assert part in message
    assert not Path('x.png').exists()


# Predictions

@pytest.fixture(scope='module')
def network_file(tmp_path_factory):
    torch.manual_seed(0)
    network = build_network(STUDENT)
    network.init_weights()
    path = tmp_path_factory.mktemp('network') / 'epoch_1.pth'
    torch.save(dict(state_dict=network.state_dict()), path)
    return path


@pytest.fixture(scope='module')
def scores(network_file):
    """Probabilities of 60 digits, computed without mmat's tools."""
    network = build_network(STUDENT).eval()
    network.load_state_dict(torch.load(network_file)['state_dict'])
    with torch.no_grad():
        return network((Digits('test', indices=60).images.float() - 77.7) / 81.1).softmax(1)


@pytest.fixture(scope='module')
def predictions_file(network_file, tmp_path_factory):
    """Predictions from tools/test.py."""
    folder = tmp_path_factory.mktemp('predictions')
    code, _ = run_tool('test.py', STUDENT, network_file, '--out', folder / 'p.pkl', '--fp32', '--work-dir', folder,
                       *SHORT, 'log_level=ERROR')
    assert not code
    return folder / 'p.pkl'


def test_predictions_are_read(predictions_file, scores):
    predictions = read_predictions(predictions_file)
    assert [each['sample_idx'] for each in predictions] == list(range(60))
    assert torch.cat([each['gt_label'] for each in predictions]).tolist() == Digits('test', indices=60).labels.tolist()
    assert torch.allclose(torch.stack([each['pred_score'] for each in predictions]), scores, atol=1e-5)


class Evil:

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


class NestedEvil(Evil):
    """Nested in the bytes of a tensor, which torch reads with a second unpickler."""

    def __reduce__(self):
        buffer = io.BytesIO()
        torch.save(Evil(self.path), buffer, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (buffer.getvalue(), )


@pytest.mark.parametrize('kind', [Evil, NestedEvil])
def test_predictions_execute_nothing(kind, tmp_path):
    (tmp_path / 'p.pkl').write_bytes(pickle.dumps([dict(pred_label=kind(tmp_path / 'ran'))]))
    with pytest.raises(DataError, match=r'/p\.pkl'):
        read_predictions(tmp_path / 'p.pkl')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('content, part', [
    (b'', 'EOFError'),
    (pickle.dumps([]), 'pred_label, pred_score, gt_label'),
    (pickle.dumps([dict(pred_label=3, gt_label=3, pred_score=1)]), 'pred_label, pred_score, gt_label'),
    (None, '--out p.pkl'),
])
def test_the_error_names_a_file_without_predictions(content, part, tmp_path):
    if content is not None:
        (tmp_path / 'p.pkl').write_bytes(content)
    message = fails('analysis_tools/eval_metric.py', tmp_path / 'p.pkl', '--metric', 'type=Accuracy')
    assert str(tmp_path / 'p.pkl') in message and part in message


@pytest.mark.parametrize('source', ['network_file', 'predictions_file'])
def test_confusion_matrix(source, scores, request, tmp_path):
    labels, predicted = Digits('test', indices=60).labels.tolist(), scores.argmax(1).tolist()
    expected = [[sum(pair == (row, column) for pair in zip(labels, predicted)) for column in range(10)]
                for row in range(10)]
    code, output = run_tool('analysis_tools/confusion_matrix.py', STUDENT, request.getfixturevalue(source),
                            '--out', tmp_path / 'm.json', '--show-path', tmp_path / 'm.png', *SHORT)
    assert not code
    assert json.loads((tmp_path / 'm.json').read_text()) == dict(
        classes=list('0123456789'), true_by_predicted=expected)
    right = sum(expected[label][label] for label in range(10))
    assert f'{right} of 60 ' in output and f'({100 * right / 60:.2f} %)' in output
    row, column = max(((r, c) for r in range(10) for c in range(10) if r != c), key=lambda at: expected[at[0]][at[1]])
    assert re.search(rf'^  {row} .* {column}: {expected[row][column]} of {sum(expected[row])}$', output, re.MULTILINE)
    assert matplotlib.image.imread(tmp_path / 'm.png').shape[0] > 500


def test_most_confused():
    matrix = torch.tensor([[9, 2, 0], [5, 9, 0], [0, 2, 0]])
    assert most_confused(matrix) == [(1, 0, 5), (0, 1, 2), (2, 1, 2)]
    assert most_confused(matrix, 1) == [(1, 0, 5)] and matrix[0, 0] == 9


def test_a_confusion_matrix_of_another_test_sets_predictions_is_refused(predictions_file):
    message = fails('analysis_tools/confusion_matrix.py', 'wrn16-2_1xb64_cifar100', predictions_file)
    assert str(predictions_file) in message and ' 10 classes' in message and ' 100 classes' in message


@pytest.mark.parametrize('words, parts', [
    (['absent.pkl'], ("'absent.pkl'", 'tools/test.py')),
    (['absent.pth'], ("'absent.pth'", )),
    (['absent.pth', '--out', 'm.csv'], ('--out', '.json', "'m.csv'")),
    (['absent.pth', '--cmap', 'virid'], ('--cmap', "'virid'", "'viridis'")),
])
def test_a_mistake_with_a_confusion_matrix_is_one_line(words, parts):
    message = fails('analysis_tools/confusion_matrix.py', STUDENT, *words, *SHORT, 'log_level=ERROR')
    for part in parts:
        assert part in message


def test_eval_metric(predictions_file, scores):
    labels = Digits('test', indices=60).labels
    top = scores.topk(3).indices
    code, output = run_tool('analysis_tools/eval_metric.py', predictions_file, '--metric', 'type=Accuracy', 'topk=1,3',
                            '--metric', 'type=ConfusionMatrix')
    assert not code and 'confusion_matrix/result' in output
    for k in (1, 3):
        expected = 100 * (top[:, :k] == labels[:, None]).any(1).float().mean().item()
        assert float(re.search(rf'accuracy/top{k}: (\S+)', output)[1]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('metric, message', [
    # Other tests register metrics too.
    (['type=Acuracy'], r"'Acuracy'.*(mmat|mmpretrain)\.Accuracy"),
    (['topk=1'], "--metric .*KEY=VALUE.* `type`.*'topk=1'"),
    (['type=Accuracy', 'topk'], "--metric .*KEY=VALUE.* `type`.*'type=Accuracy topk'"),
    (['Accuracy'], "--metric .*KEY=VALUE.* `type`.*'Accuracy'"),
])
def test_a_mistake_with_a_metric_is_one_line(metric, message):
    assert re.search(message, fails('analysis_tools/eval_metric.py', 'p.pkl', '--metric', *metric))


def test_results_are_sorted_by_confidence(predictions_file, scores, tmp_path):
    code, output = run_tool('analysis_tools/analyze_results.py', STUDENT, predictions_file, '--out-dir', tmp_path / 'o',
                            '--topk', '3', *SHORT)
    assert not code
    dataset = Digits('test', indices=60)
    confidence, predicted = scores.max(1)
    report = json.loads((tmp_path / 'o' / 'results.json').read_text())
    for kind, chosen in (('success', predicted == dataset.labels), ('fail', predicted != dataset.labels)):
        order = sorted(chosen.nonzero().flatten().tolist(), key=lambda index: -confidence[index])[:3]
        assert [each['sample_idx'] for each in report[kind]] == order and len(order) > 1
        for rank, (each, index) in enumerate(zip(report[kind], order), start=1):
            assert each['file'] == f'{kind}/{rank:03d}.png'
            assert (each['gt_label'], each['pred_label']) == (str(int(dataset.labels[index])),
                                                              str(int(predicted[index])))
            assert each['pred_score'] == pytest.approx(float(confidence[index]), abs=1e-5)
            picture = matplotlib.image.imread(tmp_path / 'o' / each['file'])[..., :3] * 255
            assert np.array_equal(picture.round(), dataset.images[index].permute(1, 2, 0).numpy())
        assert matplotlib.image.imread(tmp_path / 'o' / f'{kind}.png').shape[0] > 100


@pytest.mark.parametrize('option, message', [
    ('test_dataloader.dataset.indices=20', ' 20 images'),
    ('test_dataloader.dataset.split=train', '`gt_label`'),
])
def test_predictions_of_another_test_set_are_refused(option, message, predictions_file, tmp_path):
    assert message in fails('analysis_tools/analyze_results.py', STUDENT, predictions_file, '--out-dir', tmp_path / 'o',
                            '--cfg-options', option)
    assert not (tmp_path / 'o').exists()


def test_predictions_that_are_all_correct(tmp_path):
    labels = Digits('test', indices=4).labels
    mmengine.dump([dict(sample_idx=index, gt_label=label.view(1), pred_label=label.view(1),
                        pred_score=torch.eye(10)[label]) for index, label in enumerate(labels)], tmp_path / 'p.pkl')
    code, output = run_tool('analysis_tools/analyze_results.py', STUDENT, tmp_path / 'p.pkl', '--out-dir', tmp_path,
                            *SHORT)
    assert not code and re.search(r'\b4 .*\b0 ', output)
    assert json.loads((tmp_path / 'results.json').read_text())['fail'] == []
    assert not (tmp_path / 'fail.png').exists()
