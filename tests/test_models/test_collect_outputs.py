import pytest
import torch
import torch.nn as nn
from mmengine.model import BaseModel

from mmat.datasets import BatchedSamples
from mmat.errors import LayerError
from mmat.models import build_network
from mmat.models.collect_outputs import collect_outputs, find_logits


class Linear(BaseModel):
    """Its loss is the mean of ``sum_k (k + 1) (2 x_k)^2 / 2``, so ``J = 4 (k + 1) x_k``."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 3, bias=False)
        self.model.weight.data = 2 * torch.eye(3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = self.model(inputs)
        if mode == 'tensor':
            return out
        return dict(loss_all=(torch.arange(1, 4) * out.square() / 2).sum(1).mean(), accuracy=torch.tensor(7.))


X = torch.tensor([[1., -2., 3.], [0., 5., 1.]])
J = 4 * torch.tensor([1., 2., 3.]) * X


# Logits

def test_logits_of_an_image_classifier_are_its_prediction(network_config):
    network = build_network(network_config()).eval()
    assert find_logits(network) == 'head'
    inputs, labels = torch.rand(2, 3, 8, 8), torch.tensor([1, 2])
    for mode in ('loss', 'tensor'):
        _, outputs = collect_outputs(network, inputs, BatchedSamples(labels), {}, ['logits'], 'student', mode)
        assert torch.equal(outputs.logits, network(inputs))


def test_logits_of_a_timm_classifier():
    pytest.importorskip('timm')
    network = build_network(dict(type='mmpretrain.TimmClassifier', model_name='resnet18', num_classes=10)).eval()
    assert find_logits(network) == 'model'
    inputs = torch.rand(1, 3, 64, 64)
    _, outputs = collect_outputs(network, inputs, None, {}, ['logits'], 'student', 'tensor')
    assert torch.equal(outputs.logits, network(inputs))


def test_a_head_has_precedence_over_a_model():
    assert find_logits(nn.ModuleDict(dict(model=nn.Identity(), head=nn.Identity()))) == 'head'


@pytest.mark.parametrize('children', [dict(), dict(trunk=nn.Identity(), fc=nn.Identity())])
def test_a_network_without_logits_is_refused(children):
    network = nn.ModuleDict(children)
    network.head = None
    with pytest.raises(LayerError, match=r"student \(ModuleDict\) .*'head' or 'model'") as error:
        find_logits(network, 'student')
    assert str(list(children)) in str(error.value)


# One pass

def test_only_what_a_head_reads_is_collected():
    losses, outputs = collect_outputs(Linear(), X, None, {}, [], 'student')
    assert set(losses) == {'loss_all', 'accuracy'}
    assert vars(outputs) == dict(
        features={}, logits=None, targets=None, input_gradient=None, flipped_input_gradient=None)


def test_a_layer_and_the_logits_may_be_one():
    _, outputs = collect_outputs(Linear(), X, None, dict(model='model'), ['logits'], 'student')
    assert torch.equal(outputs.logits, 2 * X) and torch.equal(outputs.features['model'], 2 * X)


def test_features_have_the_keys_of_the_layers():
    _, outputs = collect_outputs(Linear(), X, None, {0: 'model', 'model': 'model', 'last': 'model'}, [], 'student')
    assert list(outputs.features) == [0, 'model', 'last']
    assert torch.equal(outputs.features[0], 2 * X)
    assert outputs.features[0] is outputs.features['model'] is outputs.features['last']


def test_a_layer_without_an_output_is_named():
    network = Linear()
    network.spare = nn.Identity()
    with pytest.raises(LayerError, match="'spare'.*teacher"):
        collect_outputs(network, X, None, {0: 'spare'}, [], 'teacher')


@pytest.mark.parametrize('enabled', [True, False])
@pytest.mark.parametrize('create_graph', [True, False])
def test_gradients_by_hand(create_graph, enabled):
    # Only losses are differentiated, not other log entries. The last axis is flipped.
    with torch.set_grad_enabled(enabled):
        _, outputs = collect_outputs(
            Linear(), X, None, {}, ['input_gradient', 'flipped_input_gradient'], 'student', create_graph=create_graph)
    flipped = 4 * torch.tensor([3., 2., 1.]) * X
    for result, expected in ((outputs.input_gradient, J), (outputs.flipped_input_gradient, flipped)):
        torch.testing.assert_close(result, expected)
        assert result.requires_grad == (create_graph and enabled)
    assert not X.requires_grad


def test_gradients_are_with_respect_to_the_images_before_the_transform():
    _, outputs = collect_outputs(
        Linear(), X, None, dict(model='model'), ['input_gradient', 'flipped_input_gradient'], 'teacher',
        transform=lambda images: images * torch.tensor([1., 2., 4.]) + 1)
    transform = torch.tensor([1., 2., 4.])
    factors = 4 * torch.tensor([1., 2., 3.])
    torch.testing.assert_close(outputs.features['model'], 2 * (X * transform + 1))
    torch.testing.assert_close(outputs.input_gradient, factors * (X * transform + 1) * transform)
    torch.testing.assert_close(
        outputs.flipped_input_gradient, (factors * (X.flip(1) * transform + 1) * transform).flip(1))
