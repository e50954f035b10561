from pathlib import Path

import mmpretrain
import pytest
import torch
from mmpretrain.apis.model import ModelHub

from mmat.apis import hub, register_zoo
from mmat.errors import MissingFileError
from mmat.models import Distiller
from mmat.utils.zoo import list_models, zoo_index

PUBLISHED = 'https://download.openmmlab.com/'


@pytest.fixture
def fresh_hub(monkeypatch):
    """mmpretrain's hub as it is when mmpretrain has just been imported: it has not read its own index yet."""
    monkeypatch.setattr(ModelHub, '_models_dict', {})
    monkeypatch.setattr(ModelHub, '_ModelHub__mmpretrain_registered', False)
    return ModelHub._models_dict


@pytest.mark.parametrize('ours_first', [True, False])
def test_every_name_of_ours_is_in_it_and_its_own_are_its_own(ours_first, fresh_hub):
    if ours_first:
        register_zoo()
        assert fresh_hub
    own = ModelHub.get('resnet50_8xb32_in1k')
    register_zoo()
    assert set(list_models()) <= set(mmpretrain.list_models())
    again = ModelHub.get('resnet50_8xb32_in1k')
    assert again.weights == own.weights and again.config.filename == own.config.filename
    for name, entry in zoo_index().items():
        # Names that mmpretrain also has keep mmpretrain's entry.
        if str(entry.get('Weights', '')).startswith(PUBLISHED):
            assert fresh_hub[name.lower()].weights == entry['Weights'], name
            assert Path(fresh_hub[name.lower()].config).is_relative_to(Path(mmpretrain.__file__).parent), name
        else:
            assert fresh_hub[name.lower()].config == entry['Config'], name


def test_a_name_that_is_taken_is_left(fresh_hub):
    name = list_models('wrn16-1_*')[0]
    fresh_hub[name] = theirs = object()
    register_zoo()
    assert fresh_hub[name] is theirs


def test_importing_the_apis_is_enough():
    assert mmpretrain.list_models('wrn16-1_at-wrn16-2') == list_models('wrn16-1_at-wrn16-2*')
    assert ModelHub.get('wrn40-2_1xb128_cifar10').metadata.parameters == 2243546


def test_mmpretrain_builds_a_network():
    network = mmpretrain.get_model('wrn16-1_1xb128_cifar10', backbone=dict(widen_factor=2), head=dict(in_channels=128))
    assert sum(parameter.numel() for parameter in network.parameters()) == 691674
    assert network._dataset_meta['classes'][3] == 'cat'


def test_mmpretrain_builds_a_distiller_that_predicts_as_its_student():
    model = mmpretrain.get_model('wrn16-1_at-wrn16-2_1xb128_cifar10')
    assert isinstance(model, Distiller) and not model.training
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    samples = model.test_step(dict(inputs=images))
    expected = model.student.test_step(dict(inputs=images))
    for sample, other in zip(samples, expected):
        assert sample.pred_score.shape == (10, ) and torch.equal(sample.pred_score, other.pred_score)


def test_a_package_without_its_configs_can_be_imported(fresh_hub, monkeypatch):
    def missing():
        raise MissingFileError

    monkeypatch.setattr(hub, 'zoo_root', missing)
    register_zoo()
    assert not fresh_hub
