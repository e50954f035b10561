import pytest
import torch
import torch.nn.functional as F

from mmat import get_model
from mmat.apis import get_attention_maps


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


def test_a_misspelt_layer_is_told_the_closest(model):
    with pytest.raises(ValueError, match="'backbone.group0'"):
        get_attention_maps(model, torch.zeros(1, 3, 32, 32), ['backbone.grup0'])
