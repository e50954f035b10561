import pytest
import torch
import torch.nn as nn

from mmat.models.build_checks import check_input_gradient, output_shapes


class Picky(nn.Module):
    """Takes images of some sizes only, and notes what it was given."""

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
def test_shapes_are_those_of_the_first_usual_size_that_it_takes(sizes, size):
    shapes = output_shapes(Picky(sizes), ['conv', 'bn'], 'student')
    assert shapes == dict.fromkeys(['conv', 'bn'], (1, 5, size // 2, size // 2))


def test_a_network_that_takes_none_is_refused():
    message = r'teacher \(Picky\) runs on no image of \(32, 64, 224\) pixels.*no image of 224 pixels'
    with pytest.raises(ValueError, match=message):
        output_shapes(Picky((33, 97)), ['conv'], 'teacher')


def test_a_layer_that_is_not_run_is_told():
    with pytest.raises(ValueError, match="student: layer 'spare' exists but was not run"):
        output_shapes(Picky(), ['spare'], 'student')


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_as_many_channels_as_it_normalises(channels):
    network = Picky(channels=channels)
    network.data_preprocessor = nn.Module()
    network.data_preprocessor.register_buffer('mean', torch.zeros(channels, 1, 1))
    assert output_shapes(network, ['conv'], 'student')['conv'] == (1, 5, 16, 16)
    assert {shape for shape, *_ in network.seen} == {(1, channels, 32, 32)}


@pytest.mark.parametrize('probe', [
    lambda network: output_shapes(network, ['conv'], 'student'),
    lambda network: check_input_gradient(network, 'student', twice=True),
    lambda network: check_input_gradient(network, 'student', twice=False),
], ids=['shapes', 'twice', 'once'])
@pytest.mark.parametrize('sizes', [(32, ), (224, ), ()])
def test_it_runs_in_eval_mode_and_leaves_everything_as_it_was(sizes, probe):
    network = Picky(sizes).double().train()
    network.bn.eval()
    state, random = {key: value.clone() for key, value in network.state_dict().items()}, torch.get_rng_state()
    try:
        probe(network)
    except ValueError:
        assert not sizes
    assert all(dtype == torch.float64 and not training for _, dtype, training, _ in network.seen)
    assert bool(network.seen) == bool(sizes)
    assert network.training and network.conv.training and not network.bn.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not network.conv._forward_hooks


@pytest.mark.parametrize('twice', [True, False])
def test_gradients_are_tried_even_where_none_are_recorded(twice):
    network = Picky()
    with torch.no_grad():
        check_input_gradient(network, 'student', twice)
    assert [enabled for *_, enabled in network.seen] == [True]


def test_a_frozen_network_will_do_as_a_teacher_but_not_as_a_student():
    network = Picky().requires_grad_(False)
    check_input_gradient(network, 'teacher', twice=False)
    with pytest.raises(ValueError, match=r'student \(Picky\) is frozen'):
        check_input_gradient(network, 'student', twice=True)


def test_without_statistics_the_first_convolution_tells_the_channels():
    network = Picky(channels=2)
    output_shapes(network, ['conv'], 'student')
    assert network.seen[0][0] == (1, 2, 32, 32)
