"""Networks with several labels per image: inference, tests and tools."""
import json
import re

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from tool_runner import fails, run_tool

import mmat
from mmat.datasets import BatchedSamples
from mmat.errors import DataError
from mmat.evaluation import Accuracy
from mmat.models.targets import label_names

CLASSES = ('cat', 'dog', 'sky', 'sea')
LABELS = ([0, 2], [1], [], [3, 0, 1])
# Logits of the four images; the scores are their sigmoids.
LOGITS = torch.tensor([[3., -3, 2, -1], [-1, 1, -2, -3], [-1, -2, -3, -4], [1, 2, -1, 4]])


@pytest.fixture
def images(tmp_path):
    """Four gray images, of brightness 10, 20, 30, 40."""
    paths = []
    for index in range(4):
        paths.append(tmp_path / 'images' / f'{index}.png')
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((12, 20, 3), 10 * (index + 1), np.uint8)).save(paths[-1])
    return [str(path) for path in paths]


@pytest.fixture
def make(images, network_config, tmp_path):
    """Makes a config file of a multi-label network, and its checkpoint."""

    def write(classes=CLASSES, evaluator='mmpretrain.MultiLabelMetric', **head):
        annotations = tmp_path / 'annotations.json'
        annotations.write_text(json.dumps(dict(
            metainfo=dict(classes=classes) if classes else {},
            data_list=[dict(img_path=path, gt_label=labels) for path, labels in zip(images, LABELS)])))
        model = network_config()
        model['data_preprocessor'] = dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=True)
        model['head'] = {**dict(type='mmpretrain.MultiLabelLinearClsHead', num_classes=4, in_channels=64,
                                loss=dict(type='mmpretrain.CrossEntropyLoss', use_sigmoid=True)), **head}
        pipeline = [dict(type='mmpretrain.LoadImageFromFile'), dict(type='mmpretrain.Resize', scale=(16, 16)),
                    dict(type='mmpretrain.PackInputs')]
        loader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                      collate_fn=dict(type='default_collate'),
                      dataset=dict(type='mmpretrain.MultiLabelDataset', ann_file=str(annotations), pipeline=pipeline))
        config = Config(dict(
            model=model, test_dataloader=loader, test_cfg=dict(), test_evaluator=dict(type=evaluator),
            default_scope='mmengine', log_level='ERROR', visualizer=dict(type='Visualizer', vis_backends=None)))
        config.dump(tmp_path / 'several.py')
        torch.manual_seed(0)
        network = mmat.get_model(config)
        torch.save(dict(state_dict=network.state_dict()), tmp_path / 'several.pth')
        return tmp_path / 'several.py', tmp_path / 'several.pth'

    return write


@pytest.fixture
def logits(monkeypatch):
    """Gives the classifier's logits by the brightness of the image, in the order of the test set."""

    def forward(self, feats):
        return LOGITS[[int(value) // 10 - 1 for value in self.brightness]]

    def extract(self, inputs, *args, **kwargs):
        self.head.brightness = inputs.mean((1, 2, 3)).round()
        return original(self, inputs, *args, **kwargs)

    from mmpretrain.models import ImageClassifier, MultiLabelLinearClsHead
    original = ImageClassifier.extract_feat
    monkeypatch.setattr(ImageClassifier, 'extract_feat', extract)
    monkeypatch.setattr(MultiLabelLinearClsHead, 'forward', forward)


# Inference

@pytest.mark.parametrize('head, expected', [
    ({}, ([0, 2], [1], [], [0, 1, 3])),
    (dict(thr=0.7), ([0, 2], [1], [], [0, 1, 3])),
    (dict(thr=0.9), ([0], [], [], [3])),
    (dict(topk=2), ([0, 2], [1, 0], [0, 1], [3, 1])),
])
@pytest.mark.parametrize('classes', [CLASSES, None])
def test_all_labels_are_returned(head, expected, classes, make, images, logits, tmp_path):
    config, checkpoint = make(classes, **head)
    results = mmat.AttentionInferencer(config, checkpoint, classes=classes)(
        images, batch_size=3, out_file=tmp_path / 'out.json')
    scores = LOGITS.sigmoid()
    for result, labels, row in zip(results, expected, scores):
        assert result['pred_label'] == labels
        assert result['pred_score'] == pytest.approx([float(row[label]) for label in labels])
        np.testing.assert_allclose(result['pred_scores'], row, rtol=1e-6)
        assert result.get('pred_class') == ([classes[label] for label in labels] if classes else None)
    written = json.loads((tmp_path / 'out.json').read_text())
    assert [each['pred_label'] for each in written] == list(expected)


def test_pictures_show_all_labels(make, images, logits, monkeypatch):
    titles = []

    def render(photographs, attention, caption):
        titles.extend(attention)
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr('mmat.apis.inferencer.render_attention_grid', render)
    config, checkpoint = make()
    mmat.AttentionInferencer(config, checkpoint, classes=CLASSES)(images, return_vis=True)
    assert [re.findall(r'(\w+)  (\d\.\d\d)', title) for title in titles] == [
        [('cat', '0.95'), ('sky', '0.88')], [('dog', '0.73')], [], [('cat', '0.73'), ('dog', '0.88'), ('sea', '0.98')]]
    assert titles[2]


def test_the_command_line_prints_all_labels(make, images, logits, tmp_path):
    config, checkpoint = make()
    code, output = run_tool('infer.py', config, checkpoint, *images, '--out-dir', tmp_path / 'out', '--device', 'cpu')
    assert not code
    lines = [line for line in output.splitlines() if line.startswith(str(tmp_path / 'images'))]
    assert [re.findall(r'(\w+) \((\d\.\d{3})\)', line) for line in lines] == [
        [('0', '0.953'), ('2', '0.881')], [('1', '0.731')], [],
        [('0', '0.731'), ('1', '0.881'), ('3', '0.982')]]


def test_a_network_of_another_package_is_recognized(make, images, logits):
    config, checkpoint = make()
    model = mmat.get_model(config, checkpoint)
    head = model.head

    class Other(torch.nn.Module):
        """No subclass of mmpretrain's head."""

        def predict(self, feats, data_samples):
            head.brightness = self.brightness
            return head.predict(feats, data_samples)

    model.head = Other()
    results = mmat.AttentionInferencer(model)(images)
    assert [each['pred_label'] for each in results] == [[0, 2], [1], [], [0, 1, 3]]


def test_a_csra_head(make, images):
    config, checkpoint = make(type='mmpretrain.CSRAClsHead', num_heads=2, lam=0.1, thr=0.)
    network = Config.fromfile(config)
    network.model.neck = None
    torch.manual_seed(0)
    result, *_ = mmat.AttentionInferencer(mmat.get_model(network), classes=CLASSES)(images)
    assert result['pred_label'] == [0, 1, 2, 3] and result['pred_class'] == list(CLASSES)


def test_a_network_without_a_head_gives_attention_alone(make, images, tmp_path):
    config, _ = make()
    network = Config.fromfile(config)
    network.model.head = None
    network.dump(tmp_path / 'features.py')
    model = mmat.get_model(network)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'features.pth')
    results = mmat.AttentionInferencer(model, classes=CLASSES)(images, batch_size=4, return_vis=True)
    assert [sorted(each) for each in results] == [['attention', 'img_path', 'visualization']] * 4
    headed = mmat.get_model(config)
    headed.load_state_dict(model.state_dict(), strict=False)
    headed, = mmat.AttentionInferencer(headed)(images[1])
    for layer, values in headed['attention'].items():
        np.testing.assert_allclose(results[1]['attention'][layer], values, rtol=1e-5)
    code, output = run_tool('infer.py', tmp_path / 'features.py', tmp_path / 'features.pth', images[0], '--out-dir',
                            tmp_path / 'out')
    assert not code and images[0] in output and (tmp_path / 'out' / '0.png').exists()


# Tests and analysis

@pytest.fixture
def predictions(make, logits, tmp_path):
    config, checkpoint = make()
    code, _ = run_tool('test.py', config, checkpoint, '--out', tmp_path / 'p.pkl', '--work-dir', tmp_path / 'run')
    assert not code
    return config, checkpoint, tmp_path / 'p.pkl'


def test_predictions_keep_all_labels(predictions):
    written = mmengine.load(predictions[2])
    assert [each['pred_label'].tolist() for each in written] == [[0, 2], [1], [], [0, 1, 3]]
    assert [each['gt_label'].tolist() for each in written] == list(LABELS)


def test_multi_label_metrics_of_predictions(predictions):
    code, output = run_tool('analysis_tools/eval_metric.py', predictions[2], '--metric', 'type=MultiLabelMetric',
                            'average=micro', '--metric', 'type=AveragePrecision')
    # Every label is right: 2 + 1 + 0 + 3.
    assert not code
    values = dict(re.findall(r'(\S+): ([\d.]+)', output))
    assert float(values['multi-label/precision_micro']) == float(values['multi-label/recall_micro']) == 100
    assert float(values['multi-label/mAP']) == 100


@pytest.mark.parametrize('words', [
    ('analysis_tools/analyze_results.py', 'CONFIG', 'PREDICTIONS', '--out-dir', 'o'),
    ('analysis_tools/confusion_matrix.py', 'CONFIG', 'PREDICTIONS'),
    ('analysis_tools/confusion_matrix.py', 'CONFIG', 'CHECKPOINT'),
    ('analysis_tools/eval_metric.py', 'PREDICTIONS', '--metric', 'type=Accuracy'),
    ('analysis_tools/eval_metric.py', 'PREDICTIONS', '--metric', 'type=SingleLabelMetric'),
    ('analysis_tools/eval_metric.py', 'PREDICTIONS', '--metric', 'type=ConfusionMatrix'),
])
def test_tools_for_one_label_refuse_several(words, predictions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = dict(zip(('CONFIG', 'CHECKPOINT', 'PREDICTIONS'), predictions))
    message = fails(*(names.get(word, word) for word in words))
    assert 'MultiLabelMetric' in message and '`pred_label`' in message and ' 2 ' in message
    assert not (tmp_path / 'o').exists()


def test_accuracy_refuses_several_labels_per_image(make, logits, tmp_path):
    config, checkpoint = make(evaluator='mmat.Accuracy')
    message = fails('test.py', config, checkpoint, '--work-dir', tmp_path / 'run')
    assert 'MultiLabelMetric' in message and ' 2' in message
    # Two images with two labels in all.
    samples = [dict(gt_label=torch.tensor(labels, dtype=torch.int64), pred_score=torch.eye(4)[0])
               for labels in ([0, 2], [])]
    with pytest.raises(DataError, match='got 2'):
        Accuracy().process(None, samples)


def test_names_of_several_labels():
    from mmpretrain.structures import DataSample
    samples = [DataSample().set_gt_label(labels) for labels in ([0, 2], [1])]
    assert label_names(dict(data_samples=samples), CLASSES) == ['cat, sky', 'dog']
    assert label_names(dict(data_samples=samples), None) == ['0, 2', '1']
    assert label_names(dict(data_samples=BatchedSamples(torch.tensor([3]))), CLASSES) == ['sea']
    assert label_names({}, CLASSES) == label_names(dict(data_samples=[DataSample()]), CLASSES) == []
