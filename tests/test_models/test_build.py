from pathlib import Path

import pytest
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmat.errors import ConfigError, MissingFileError
from mmat.models import build_network, network_config
from mmat.models.backbones import WideResNet

ROOT = Path(__file__).parents[2]
FILE = str(ROOT / 'configs/wide_resnet/wrn16-1_1xb128_cifar10.py')
DISTILLATION = str(ROOT / 'configs/at/wrn16-1_at-wrn16-2_1xb128_cifar10.py')
CIFAR_MEAN = [125.3, 123.0, 113.9]


@pytest.mark.parametrize('source', [
    'wrn16-1_1xb128_cifar10',
    FILE,
    # A distillation config gives its student.
    'wrn16-1_at-wrn16-2_1xb128_cifar10',
    DISTILLATION,
    Config.fromfile(FILE),
    Config.fromfile(DISTILLATION),
    Config.fromfile(FILE).model,
    Config.fromfile(DISTILLATION).model,
    Config.fromfile(FILE).to_dict()['model'],
], ids=lambda source: type(source).__name__)
def test_all_ways_to_name_a_network(source):
    network = build_network(source)
    assert isinstance(network.backbone, WideResNet)
    # The student, not its teacher of 691,674.
    assert sum(p.numel() for p in network.parameters()) == 175066
    assert network.data_preprocessor.mean.flatten().tolist() == pytest.approx(CIFAR_MEAN)


def test_a_network_is_returned_unchanged():
    network = nn.Linear(2, 2)
    assert build_network(network) is network


@pytest.mark.parametrize('config, mean', [
    # The model's preprocessor takes precedence over its file's, the student's over the distiller's.
    (dict(model=dict(type='T'), data_preprocessor=dict(mean=1)), 1),
    (dict(model=dict(type='T', data_preprocessor=dict(mean=2)), data_preprocessor=dict(mean=1)), 2),
    (dict(type='D', student=dict(type='T'), data_preprocessor=dict(mean=3)), 3),
    (dict(type='D', student=dict(type='T', data_preprocessor=dict(mean=4)), data_preprocessor=dict(mean=3)), 4),
    (dict(model=dict(type='D', student=dict(type='T')), data_preprocessor=dict(mean=1)), 1),
    (dict(model=dict(type='D', student=dict(type='T'), data_preprocessor=dict(mean=3)),
          data_preprocessor=dict(mean=1)), 3),
])
def test_the_innermost_preprocessor_is_used(config, mean):
    assert network_config(config) == dict(type='T', data_preprocessor=dict(mean=mean))


@pytest.mark.parametrize('distilled', [False, True])
def test_types_without_a_prefix_belong_to_the_scope_of_their_file(distilled):
    model = dict(
        type='ImageClassifier', backbone=dict(type='mmat.WideResNet', depth=10, widen_factor=1),
        neck=dict(type='GlobalAveragePooling'), head=dict(type='LinearClsHead', num_classes=3, in_channels=64))
    config = Config(dict(
        default_scope='mmpretrain', model=dict(type='mmat.Distiller', student=model) if distilled else model))
    for scope in ('mmat', 'mmengine'):
        with DefaultScope.overwrite_default_scope(scope):
            assert type(build_network(config).head).__module__.startswith('mmpretrain.')


def test_the_config_is_not_changed():
    config = Config.fromfile(DISTILLATION)
    before = config.to_dict()
    network_config(config)
    build_network(config)
    assert config.to_dict() == before


def test_a_student_may_be_a_zoo_name():
    config = network_config(dict(type='mmat.Distiller', student='wrn16-1_1xb128_cifar10'))
    assert config['backbone']['type'] == 'mmat.WideResNet'


def test_a_config_without_a_model_is_refused():
    with pytest.raises(ConfigError, match=r"`model`.*`type`.*\['optimizer'\]"):
        network_config(dict(optimizer=1))


def test_a_misspelt_name_suggests_the_closest():
    with pytest.raises(MissingFileError, match='wrn16-1_1xb128_cifar\\b.*wrn16-1_1xb128_cifar10'):
        build_network('wrn16-1_1xb128_cifar')
