import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mmat import apis, get_model
from mmat.errors import LayerError, UserError
from mmat.models import BatchPreprocessor, attention_layers, build_network, get_attention_maps


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return get_model('wrn16-1_1xb128_cifar10')


def test_maps_of_every_stage_by_hand(model):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    maps = get_attention_maps(model, images)
    mean, std = torch.tensor([125.3, 123.0, 113.9]), torch.tensor([63.0, 62.1, 66.7])
    x = (images.float() - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    backbone = model.backbone
    with torch.no_grad():
        x = F.conv2d(x, backbone.conv0.weight, padding=1)
        for name in ('group0', 'group1', 'group2'):
            x = getattr(backbone, name)(x)
            torch.testing.assert_close(maps[f'backbone.{name}'], (x * x).sum(1))
    assert list(maps) == ['backbone.group0', 'backbone.group1', 'backbone.group2']


def test_chosen_layers_and_options(model):
    images = torch.randint(0, 256, (1, 3, 32, 32)).float()
    maps = get_attention_maps(model, images, [-1, 'backbone.group0.block1'], p=1, reduction='max')
    assert [tuple(value.shape) for value in maps.values()] == [(1, 8, 8), (1, 32, 32)]
    assert not any(value.requires_grad for value in maps.values())


def test_a_misspelt_layer_suggests_the_closest(model):
    with pytest.raises(LayerError, match="'backbone.group0'"):
        get_attention_maps(model, torch.zeros(1, 3, 32, 32), ['backbone.grup0'])


def test_the_apis_export_the_same_function():
    assert apis.get_attention_maps is get_attention_maps


# Learned attention

STAGES = ['backbone.group0', 'backbone.group1', 'backbone.group2']
MAPS = ['neck.maps.0', 'neck.maps.1']


@pytest.fixture(scope='module')
def attentive(attention_config):
    torch.manual_seed(0)
    model = build_network(attention_config())
    model.init_weights()
    return model.eval()


def images(n=2, size=16):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def plain(model, x):
    """Maps of every stage, and the softmax over positions of <u, l> at the last two."""
    backbone, maps, learned = model.backbone, {}, {}
    x = backbone.conv0((x.float() - 77.7) / 81.1)
    for index, name in enumerate(('group0', 'group1', 'group2')):
        x = getattr(backbone, name)(x)
        maps[f'backbone.{name}'] = (x * x).sum(1)
        if index:
            local = x if index == 1 else F.relu(backbone.bn(x))
            scores = F.conv2d(local, model.neck.scores[index - 1].weight)[:, 0]
            learned[f'neck.maps.{index - 1}'] = scores.flatten(1).softmax(1).view_as(scores)
    return {**maps, **learned}


def compare(found, expected, layers):
    assert list(found) == layers
    for layer in layers:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-4, atol=1e-7)


def test_learned_maps_are_returned_unchanged(attentive):
    with torch.no_grad():
        expected = plain(attentive, images())
    found = get_attention_maps(attentive, images())
    compare(found, expected, MAPS)
    assert all(maps.dtype == torch.float32 and not maps.requires_grad for maps in found.values())
    # The options of activation maps have no effect.
    compare(get_attention_maps(attentive, images(), p=4, reduction='max'), expected, MAPS)


@pytest.mark.parametrize('layers, expected', [
    (STAGES, STAGES),
    ([0, 'neck.maps.1', 'neck.maps.0', -1], ['backbone.group0', 'neck.maps.1', 'neck.maps.0', 'backbone.group2']),
    (['neck.maps.1'], ['neck.maps.1']),
    # The same layer, once.
    ([1, 'backbone.group1'], ['backbone.group1']),
])
def test_stages_and_learned_maps_together(layers, expected, attentive):
    with torch.no_grad():
        values = plain(attentive, images())
    compare(get_attention_maps(attentive, images(), layers), values, expected)


def test_sigmoid_maps_are_not_normalised_to_sum_one(attention_config):
    config = attention_config()
    config['neck']['normalization'] = 'sigmoid'
    torch.manual_seed(0)
    maps = get_attention_maps(build_network(config).eval(), images())
    assert all(((value > 0) & (value < 1)).all() and value.sum() > 3 for value in maps.values())


class CustomMaps(nn.Module):
    gives_attention = True


class Mean(nn.Module):
    """(N, C, H, W) to (N, H, W)."""

    def __init__(self, gives_attention):
        super().__init__()
        self.data_preprocessor = BatchPreprocessor()
        self.mean = nn.Identity()
        self.mean.gives_attention = gives_attention

    def forward(self, inputs, mode):
        return self.mean(inputs.mean(1))


def test_any_module_can_declare_attention_maps():
    torch.testing.assert_close(get_attention_maps(Mean(True), images(), ['mean'])['mean'], images().float().mean(1))
    # A layer that does not declare them must output activations.
    with pytest.raises(UserError, match=r'\(N, C, H, W\).*\(2, 16, 16\)'):
        get_attention_maps(Mean(False), images(), ['mean'])


@pytest.mark.parametrize('model, expected', [
    (lambda network, attention: build_network(network()), STAGES),
    (lambda network, attention: build_network(attention()), MAPS),
    # Custom modules, in their order in the network.
    (lambda network, attention: nn.ModuleDict(
        dict(backbone=build_network(network()).backbone, z=CustomMaps(), a=CustomMaps())), ['z', 'a']),
    # Neither maps nor stages.
    (lambda network, attention: nn.Sequential(nn.Linear(1, 1)), []),
], ids=['stages', 'maps', 'own', 'none'])
def test_layers_by_default(model, expected, network_config, attention_config):
    assert attention_layers(model(network_config, attention_config)) == expected


def test_a_misspelt_map_suggests_the_closest(attentive):
    with pytest.raises(LayerError, match="'neck.map.0'.*'neck.maps.0'"):
        get_attention_maps(attentive, images(), ['neck.map.0'])
