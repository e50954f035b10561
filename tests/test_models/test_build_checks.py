import pytest
import torch
import torch.nn as nn

from mmat.errors import ConfigError, LayerError
from mmat.models.build_checks import check_input_gradient, output_shapes


class Picky(nn.Module):
    """Accepts images of some sizes only, and records its inputs."""

    def __init__(self, sizes=(32, 64, 224), channels=3):
        super().__init__()
        self.sizes, self.seen = sizes, []
        self.conv = nn.Conv2d(channels, 5, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(5)
        self.spare = nn.Identity()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if inputs.shape[-1] not in self.sizes:
            raise RuntimeError(f'no image of {inputs.shape[-1]} pixels')
        self.seen.append((tuple(inputs.shape), inputs.dtype, self.training, torch.is_grad_enabled()))
        return dict(scores=self.bn(self.conv(inputs)), count=torch.tensor(3))


@pytest.mark.parametrize('sizes, size', [((32, 64, 224), 32), ((64, 224), 64), ((224, ), 224)])
def test_shapes_for_the_first_usual_size_that_the_network_accepts(sizes, size):
    shapes = output_shapes(Picky(sizes), {'conv': 'conv', 'bn': 'bn', 0: 'bn'}, 'student')
    assert shapes == dict.fromkeys(['conv', 'bn', 0], (1, 5, size // 2, size // 2))


def test_shapes_for_a_given_size():
    network = Picky((32, 40))
    assert output_shapes(network, {1: 'conv'}, 'student', (48, 40)) == {1: (1, 5, 24, 20)}
    assert {shape for shape, *_ in network.seen} == {(1, 3, 48, 40)}
    # No other size is tried.
    with pytest.raises(LayerError, match=r'teacher \(Picky\).* 32 x 48 .*no image of 48 pixels') as error:
        output_shapes(network, {1: 'conv'}, 'teacher', (32, 48))
    assert '224' not in str(error.value)


def test_without_layers_the_network_is_not_run():
    network = Picky(())
    assert output_shapes(network, {}, 'student') == {} and not network.seen


def test_a_network_that_accepts_no_size_is_refused():
    message = r'teacher \(Picky\).* 32 x 32, 64 x 64, 224 x 224 .*no image of 224 pixels'
    with pytest.raises(LayerError, match=message):
        output_shapes(Picky((33, 97)), dict(conv='conv'), 'teacher')


def test_a_layer_that_is_not_run_is_refused():
    with pytest.raises(LayerError, match="'spare'.*student"):
        output_shapes(Picky(), {0: 'spare'}, 'student')


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_channels_of_the_normalisation(channels):
    network = Picky(channels=channels)
    network.data_preprocessor = nn.Module()
    network.data_preprocessor.register_buffer('mean', torch.zeros(channels, 1, 1))
    assert output_shapes(network, dict(conv='conv'), 'student')['conv'] == (1, 5, 16, 16)
    assert {shape for shape, *_ in network.seen} == {(1, channels, 32, 32)}


@pytest.mark.parametrize('check', [
    lambda network: output_shapes(network, dict(conv='conv'), 'student'),
    lambda network: check_input_gradient(network, 'student', twice=True),
    lambda network: check_input_gradient(network, 'student', twice=False),
], ids=['shapes', 'twice', 'once'])
@pytest.mark.parametrize('sizes', [(32, ), (224, ), ()])
def test_checks_run_in_eval_mode_and_change_nothing(sizes, check):
    network = Picky(sizes).double().train()
    network.bn.eval()
    state, random = {key: value.clone() for key, value in network.state_dict().items()}, torch.get_rng_state()
    try:
        check(network)
    except LayerError:
        assert not sizes
    assert all(dtype == torch.float64 and not training for _, dtype, training, _ in network.seen)
    assert bool(network.seen) == bool(sizes)
    assert network.training and network.conv.training and not network.bn.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not network.conv._forward_hooks


@pytest.mark.parametrize('twice', [True, False])
def test_gradients_are_computed_also_under_no_grad(twice):
    network = Picky()
    with torch.no_grad():
        check_input_gradient(network, 'student', twice)
    assert [enabled for *_, enabled in network.seen] == [True]


def test_a_frozen_network_can_be_a_teacher_but_no_student():
    network = Picky().requires_grad_(False)
    check_input_gradient(network, 'teacher', twice=False)
    with pytest.raises(ConfigError, match=r'student \(Picky\)'):
        check_input_gradient(network, 'student', twice=True)


def test_channels_of_the_first_convolution_without_a_normalisation():
    network = Picky(channels=2)
    output_shapes(network, dict(conv='conv'), 'student')
    assert network.seen[0][0] == (1, 2, 32, 32)
