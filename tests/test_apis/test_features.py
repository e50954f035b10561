import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from tool_runner import fails, run_tool

from mmat import get_model
from mmat.apis import extract_features, linear_probe
from mmat.datasets import Digits
from mmat.errors import ConfigError, MissingFileError
from mmat.models import build_network

ROOT = Path(__file__).parents[2]
DIGITS = 'recipes/linear_probe/cifar10_to_digits.py'


@pytest.fixture
def weights(tmp_path, network_config):
    torch.manual_seed(3)
    network = build_network(network_config())
    network.init_weights()
    torch.save(dict(state_dict=network.state_dict()), tmp_path / 'weights.pth')
    return str(tmp_path / 'weights.pth')


@pytest.fixture
def config(tmp_path, network_config, weights):
    network = tmp_path / 'network.py'
    network.write_text(f'model = {network_config()!r}\n')
    digits = dict(type='mmat.Digits', size=8)
    return Config(dict(
        network=str(network), checkpoint=weights, train=dict(digits, split='train', train_size=100),
        test=dict(digits, split='test', indices=50), classifier=dict(Cs=[1e-3, 1e-1], folds=2), batch_size=32))


def plain_features(network, images):
    """Average of the last group after BN and ReLU, without the library's loop."""
    mean, std = network.data_preprocessor.mean, network.data_preprocessor.std
    with torch.no_grad():
        return network.backbone((images.float() - mean) / std)[-1].mean((2, 3))


def test_features_are_the_inputs_of_the_classifier(config):
    network = get_model(config.network, pretrained=config.checkpoint).train()
    dataset = Digits('test', size=8, indices=70)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    features, labels = extract_features(network, dataset, batch_size=32)
    assert not network.training
    assert features.shape == (70, 64) and features.dtype == torch.float32
    torch.testing.assert_close(features, plain_features(network, dataset.images), rtol=1e-4, atol=1e-5)
    assert labels.equal(dataset.labels)
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())


def test_datasets_that_are_read_image_by_image(config):

    class OneByOne(torch.utils.data.Dataset):
        metainfo = dict(classes=())

        def __init__(self, dataset):
            self.dataset = dataset

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            return self.dataset[index]

    network = get_model(config.network, pretrained=config.checkpoint)
    dataset = Digits('test', size=8, indices=40)
    whole, single = (extract_features(network, each, batch_size=16) for each in (dataset, OneByOne(dataset)))
    torch.testing.assert_close(single[0], whole[0])
    assert single[1].equal(whole[1])


def test_the_classifier_is_scikit_learns(config):
    result = linear_probe(config, device='cpu')
    network = get_model(config.network, pretrained=config.checkpoint)
    train, test = Digits('train', train_size=100, size=8), Digits('test', size=8, indices=50)
    inputs, test_inputs = (plain_features(network, each.images).numpy() for each in (train, test))
    search = GridSearchCV(make_pipeline(StandardScaler(), LinearSVC(random_state=0, max_iter=10000)),
                          dict(linearsvc__C=[1e-3, 1e-1]), cv=2).fit(inputs, train.labels.numpy())
    right = np.mean(search.predict(test_inputs) == test.labels.numpy())
    # One image of 50 may fall to the other side of a border by rounding.
    assert result['accuracy'] == pytest.approx(100 * right, abs=2.01)
    assert result['C'] == search.best_params_['linearsvc__C']
    assert (result['features'], result['train_images'], result['test_images']) == (64, 100, 50)
    assert 100 / 10 < result['accuracy'] <= result['train_accuracy'] + 20


def test_without_a_checkpoint_the_network_is_as_initialised(config):
    config.checkpoint = None
    first, again = (linear_probe(config, device='cpu') for _ in range(2))
    assert first == again
    config.seed = 1
    assert linear_probe(config, device='cpu')['features'] == 64


def test_another_preprocessor(config):
    # Images of twice the contrast under twice the deviation are the same images.
    expected = linear_probe(config, device='cpu')
    config.data_preprocessor = dict(type='mmat.BatchPreprocessor', mean=[0.] * 3, std=[1e6] * 3)
    assert linear_probe(config, device='cpu') != expected
    config.data_preprocessor = dict(type='mmat.BatchPreprocessor', mean=[77.7] * 3, std=[81.1] * 3)
    assert linear_probe(config, device='cpu') == expected


@pytest.mark.parametrize('missing', ['network', 'train', 'test', 'classifier'])
def test_names_what_the_config_lacks(config, missing):
    config.pop(missing)
    with pytest.raises(ConfigError, match=f' {missing}.*recipes/linear_probe/cifar10_to_digits.py'):
        linear_probe(config)


@pytest.mark.parametrize('classifier, message', [
    *((each, f'Cs.*{re.escape(repr(each))}') for each in ('svm', dict(folds=3), dict(Cs=[]), dict(Cs=[1, -1]))),
    (dict(Cs=[0.1], folds=1), 'folds.* 2.* 1'),
])
def test_refuses_other_classifiers(config, classifier, message):
    config.classifier = classifier
    with pytest.raises(ConfigError, match=message):
        linear_probe(config)


def test_says_which_images_are_missing(config):
    config.test = dict(type='mmat.CIFAR10', data_root='nowhere', split='test')
    with pytest.raises(MissingFileError, match="test.*mmat.CIFAR10.*'nowhere'"):
        linear_probe(config)


def test_refuses_datasets_of_different_classes(config, monkeypatch):
    from mmat.registry import DATASETS
    build = DATASETS.build

    def other(cfg):
        dataset = build(cfg)
        if cfg['split'] == 'test':
            dataset.metainfo = dict(classes=('a', 'b'))
        return dataset

    monkeypatch.setattr(DATASETS, 'build', other)
    with pytest.raises(ConfigError) as error:
        linear_probe(config)
    assert [part for part in ('train', 'test', "'a'", "'b'", "'0'") if part not in str(error.value)] == []


def test_the_recipes_name_existing_networks_and_checkpoints():
    for recipe in ROOT.glob('recipes/linear_probe/*.py'):
        config = Config.fromfile(recipe)
        get_model(config.network)
        assert config.checkpoint == f'work_dirs/{config.network}'
        assert {'train', 'test', 'classifier'} <= set(config)
        classifier = dict(config.classifier)
        assert classifier.pop('Cs') and classifier.pop('folds') > 1 and not classifier


# The command

def test_the_command(tmp_path, config):
    config.dump(tmp_path / 'probe.py')
    code, output = run_tool('linear_probe.py', tmp_path / 'probe.py', '--out', tmp_path / 'result.json',
                            '--cfg-options', 'seed=0')
    assert not code
    written = json.loads((tmp_path / 'result.json').read_text())
    assert f'{written["accuracy"]:.2f} % of 50 test images' in output
    assert written['checkpoint'] == config.checkpoint and written['features'] == 64


@pytest.mark.parametrize('args, message', [
    (['recipes/linear_probe/digits.py'], 'recipes/linear_probe/'),
    ([DIGITS, '--out', 'result.txt'], "'result.txt'"),
    ([DIGITS, '--cfg-options', 'checkpoint=nowhere.pth'], "'nowhere.pth'"),
])
def test_the_command_reports_mistakes_in_one_line(args, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert message in fails('linear_probe.py', *args)
