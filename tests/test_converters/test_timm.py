"""Comparison with timm's models."""
import pytest
import torch
from random_weights import images

from mmat.converters import convert_timm
from mmat.errors import CheckpointError, UserError
from mmat.models import build_network
from mmat.utils.checkpoint import load_state

timm = pytest.importorskip('timm')

HEAD = dict(
    type='mmpretrain.ImageClassifier', data_preprocessor=dict(type='mmat.BatchPreprocessor'),
    neck=dict(type='mmpretrain.GlobalAveragePooling'))


def source_model(name, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **kwargs)
    for parameter in model.parameters():
        # Some are initialised with zeros, which would hide a mix-up.
        torch.nn.init.normal_(parameter, std=0.1)
    return model.double().eval()


def check(source, network, wrapper, size):
    load_state(network.double().eval(), convert_timm(source.state_dict(), wrapper), 'converted')
    x = images(size)
    with torch.no_grad():
        expected = source(x)
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 1e-3


@pytest.mark.parametrize('name, options, size', [
    ('test_resnet', {}, 64), ('test_vit', {}, 160), ('test_efficientnet', {}, 64)])
def test_equal_outputs_of_the_classifier(name, options, size):
    network = build_network(dict(type='mmpretrain.TimmClassifier', model_name=name, num_classes=5))
    check(source_model(name), network, 'TimmClassifier', size)


@pytest.mark.parametrize('name, width', [('test_resnet', 96), ('resnet10t', 512), ('regnetx_002', 368)])
def test_equal_outputs_of_the_backbone(name, width):
    head = dict(type='mmat.LinearClsHead', num_classes=5, in_channels=width)
    network = build_network({**HEAD, 'backbone': dict(type='mmpretrain.TIMMBackbone', model_name=name), 'head': head})
    check(source_model(name), network, 'TIMMBackbone', 64)


def test_weights_trained_on_several_gpus():
    state = source_model('test_resnet').state_dict()
    for wrapper in ('TimmClassifier', 'TIMMBackbone'):
        assert convert_timm({f'module.{key}': value for key, value in state.items()}, wrapper).keys() == \
            convert_timm(state, wrapper).keys()


@pytest.mark.parametrize('weights, found', [
    ({'conv.weight': torch.zeros(2, 2)}, 'none'),
    ({'fc.weight': torch.zeros(2, 2), 'head.weight': torch.zeros(2, 2)}, 'fc, head'),
    ({'fc.weight': torch.zeros(2, 2, 1, 1)}, 'none'),
])
def test_models_without_a_linear_classifier_are_refused(weights, found):
    with pytest.raises(CheckpointError, match=rf'fc, classifier, head\.fc, head; .*\b{found}\..*TimmClassifier'):
        convert_timm(weights, 'TIMMBackbone')


def test_an_unknown_wrapper_is_refused():
    with pytest.raises(UserError, match="'TimmClassifier' .*'TIMMBackbone'.*'ResNet'"):
        convert_timm({}, 'ResNet')
