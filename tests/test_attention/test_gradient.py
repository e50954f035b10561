import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmat.attention import gradient_norm, input_gradient
from mmat.errors import UserError

FORMS = ['paper', 'squared']


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def smooth_net():
    """Two convolutions, a linear layer, smooth activations: finite differences meet no kink."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Softplus(), nn.Conv2d(3, 2, 2, stride=2), nn.Tanh(), nn.Flatten(),
        nn.Linear(8, 3)).double()


def images(n=3):
    torch.manual_seed(1)
    return torch.randn(n, 2, 4, 4, dtype=torch.float64), torch.arange(n) % 3


def gradient_of(network, x, labels, create_graph=False):
    x = x.clone().requires_grad_()
    return input_gradient(F.cross_entropy(network(x), labels), x, create_graph)


def central_differences(function, values, step=1e-6):
    """d function / d values, one element of the tensor at a time, in place."""
    result = torch.empty_like(values)
    for index in range(values.numel()):
        value = values.view(-1)[index].item()
        sides = []
        for side in (value + step, value - step):
            values.view(-1)[index] = side
            sides.append(function().item())
        values.view(-1)[index] = value
        result.view(-1)[index] = (sides[0] - sides[1]) / (2 * step)
    return result


@pytest.mark.parametrize('n', [1, 2, 5])
@pytest.mark.parametrize('create_graph', [False, True])
def test_linear_loss(create_graph, n):
    # 2 x + 3 y - z of each sample: J is (2, 3, -1) for every sample.
    weight = tensor([2., 3., -1.])
    x = torch.randn(n, 3, dtype=torch.float64, requires_grad=True)
    result = input_gradient((x @ weight).mean(), x, create_graph)
    torch.testing.assert_close(result, weight.expand(n, 3), rtol=1e-14, atol=0)


def test_quadratic_loss():
    # x^2 + 3 x y + y^3: J is (2 x + 3 y, 3 x + 3 y^2).
    x = tensor([[1., 2.], [-1., 0.], [0., -3.], [0.5, 1.]]).requires_grad_()
    loss = (x[:, 0]**2 + 3 * x[:, 0] * x[:, 1] + x[:, 1]**3).mean()
    expected = tensor([[8., 15.], [-2., -3.], [-9., 27.], [4., 4.5]])
    torch.testing.assert_close(input_gradient(loss, x), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize('form, expected', [
    # J_i = w^2 x_i of the loss (w x_i)^2 / 2: norms w^2 ||x_i|| with ||x_i|| = 5 and 13, 2 w times their mean.
    ('paper', 2 * 3 * 9),
    # w^4 ||x_i||^2: 4 w^3 times the mean of 25 and 169.
    ('squared', 4 * 27 * 97),
])
def test_gradient_of_the_norm_by_hand(form, expected):
    weight = tensor(3.).requires_grad_()
    x = tensor([[3., 4.], [5., -12.]]).requires_grad_()
    loss = (weight * x).square().sum(1).mean() / 2
    gradient_norm(input_gradient(loss, x, create_graph=True), form).backward()
    assert weight.grad.item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize('n', [1, 2, 7])
def test_a_row_is_the_gradient_of_its_samples_own_loss(n):
    network, (x, labels) = smooth_net(), images(7)
    x, labels = x[:n], labels[:n]
    result = gradient_of(network, x, labels)
    assert result.shape == x.shape
    for row, sample, label in zip(result, x, labels):
        sample = sample.clone().requires_grad_()
        F.cross_entropy(network(sample[None]), label[None]).backward()
        torch.testing.assert_close(row, sample.grad, rtol=1e-10, atol=1e-14)


def test_bn_in_train_mode_includes_the_effect_on_other_samples():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 3))
    network.double()
    x, labels = images()
    result = gradient_of(network, x, labels)
    with torch.no_grad():
        total = central_differences(lambda: 3 * F.cross_entropy(network(x), labels), x)
        # The gradient of its own loss alone differs by more than rounding.
        first = central_differences(lambda: F.cross_entropy(network(x), labels, reduction='none')[0], x)
    torch.testing.assert_close(result, total, rtol=1e-6, atol=1e-8)
    assert (result[0] - first[0]).abs().max() > 1e-2


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('bn', [False, True])
def test_gradient_of_the_norm_is_its_finite_difference(bn, form):
    network, (x, labels) = smooth_net(), images()
    if bn:
        network.insert(1, nn.BatchNorm2d(3).double())
    gradient_norm(gradient_of(network, x, labels, create_graph=True), form).backward()
    for name, parameter in network.named_parameters():
        expected = central_differences(lambda: gradient_norm(gradient_of(network, x, labels), form), parameter.data)
        # Even the last bias has a gradient, because it changes the predictions and so the gradient of the loss.
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-8, msg=lambda m, n=name: f'{n}: {m}')


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('against_teacher', [False, True])
def test_gradcheck_of_the_weights(against_teacher, form):
    network, (x, labels) = smooth_net(), images()
    names, weights = zip(*network.named_parameters())
    target = torch.randn_like(x) if against_teacher else 0

    def norm(*weights):
        call = torch.func.functional_call
        gradient = gradient_of(lambda x: call(network, dict(zip(names, weights)), x), x, labels, create_graph=True)
        return gradient_norm(gradient - target, form)

    assert torch.autograd.gradcheck(norm, weights)


@pytest.mark.parametrize('create_graph', [False, True])
def test_the_loss_keeps_its_graph(create_graph):
    network, (x, labels) = smooth_net(), images()
    reference = copy.deepcopy(network)
    F.cross_entropy(reference(x), labels).backward()
    x.requires_grad_()
    loss = F.cross_entropy(network(x), labels)
    first, second = (input_gradient(loss, x, create_graph) for _ in range(2))
    assert torch.equal(first, second)
    assert first.requires_grad == create_graph
    # Computing J accumulates no gradients.
    assert x.grad is None and all(parameter.grad is None for parameter in network.parameters())
    loss.backward()
    for parameter, expected in zip(network.parameters(), reference.parameters()):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize('form', FORMS)
def test_loss_and_norm_go_backward_together(form):
    network, (x, labels) = smooth_net(), images()
    parameters = list(network.parameters())
    parts = [torch.autograd.grad(F.cross_entropy(network(x), labels), parameters),
             torch.autograd.grad(gradient_norm(gradient_of(network, x, labels, True), form), parameters)]
    x.requires_grad_()
    loss = F.cross_entropy(network(x), labels)
    (loss + 0.5 * gradient_norm(input_gradient(loss, x, create_graph=True), form)).backward()
    for parameter, of_loss, of_norm in zip(parameters, *parts):
        torch.testing.assert_close(parameter.grad, of_loss + 0.5 * of_norm, rtol=1e-10, atol=1e-14)


# Norms 5, 13 and 0.
ROWS = [[3., 0., 4.], [-12., 5., 0.], [0., 0., 0.]]


@pytest.mark.parametrize('shape', [(3, 3), (3, 1, 3, 1), (3, 3, 1, 1)])
@pytest.mark.parametrize('form, expected', [
    # (5 + 13 + 0) / 3 and (25 + 169 + 0) / 3
    ('paper', 6),
    ('squared', 194 / 3),
])
def test_norm_by_hand(form, expected, shape):
    result = gradient_norm(tensor(ROWS).view(shape), form)
    assert result.shape == ()
    assert result.item() == pytest.approx(expected, rel=1e-14)


def test_norm_is_of_a_whole_sample():
    # (1, 1, 1, 1) and (2, 4, 4, 8) over channels and positions: 2 and 10.
    gradient = tensor([[[[1., -1.]], [[1., 1.]]], [[[2., 4.]], [[-4., 8.]]]])
    assert gradient_norm(gradient).item() == pytest.approx(6, rel=1e-14)
    assert gradient_norm(gradient, 'squared').item() == pytest.approx(52, rel=1e-14)


def test_default_is_the_paper_form():
    assert gradient_norm(tensor(ROWS)).item() == pytest.approx(6, rel=1e-14)


@pytest.mark.parametrize('form, expected', [
    # J_i / ||J_i|| / N and 2 J_i / N, nothing where J_i is zero.
    ('paper', [[0.2, 0., 4 / 15], [-4 / 13, 5 / 39, 0.], [0., 0., 0.]]),
    ('squared', [[2., 0., 8 / 3], [-8., 10 / 3, 0.], [0., 0., 0.]]),
])
def test_gradient_by_hand_and_at_a_zero_row(form, expected):
    gradient = tensor(ROWS).requires_grad_()
    gradient_norm(gradient, form).backward()
    torch.testing.assert_close(gradient.grad, tensor(expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize('form', FORMS)
def test_a_dead_sample_adds_no_gradient(form):
    # Both units of the second sample are negative before the ReLU, -13 and -6, so its input gradient is zero.
    weight = tensor([[1., 2.], [3., 1.]]).requires_grad_()

    def gradient_of_norm(x):
        x = tensor(x).requires_grad_()
        loss = (x @ weight).relu().square().sum(1).mean()
        return torch.autograd.grad(gradient_norm(input_gradient(loss, x, create_graph=True), form), weight)[0]

    both, alone = gradient_of_norm([[1., 0.5], [-1., -4.]]), gradient_of_norm([[1., 0.5]])
    assert alone.abs().min() > 0
    torch.testing.assert_close(both, alone / 2, rtol=1e-13, atol=0)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_student_equal_to_its_teacher_has_no_gradient(dtype, form):
    network, (x, labels) = smooth_net().to(dtype), images()
    x = x.to(dtype)
    teacher = gradient_of(copy.deepcopy(network), x, labels)
    distance = gradient_norm(gradient_of(network, x, labels, create_graph=True) - teacher, form)
    distance.backward()
    assert distance.item() == 0
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in network.parameters())


@pytest.mark.parametrize('form', ['code', 'Paper', None])
def test_refuses_unknown_forms(form):
    with pytest.raises(UserError, match=f"form.*'paper', 'squared'.*{form!r}"):
        gradient_norm(torch.zeros(2, 3), form)
