"""Helpers for the tests of backbones: distinct parameter values, the authors' backward pass, and checks."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import convert_sync_batchnorm
from mmengine.registry import DefaultScope

from mmat.datasets import BatchedSamples
from mmat.models.taps import find_layer, tap
from mmat.registry import MODELS


def assert_classifies(scope, stages, channels, silent=(), **backbone):
    """A classifier with the backbone trains all weights but ``silent`` ones, and its stages can be read."""
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(
            type='mmpretrain.ImageClassifier',
            data_preprocessor=dict(type='mmat.BatchPreprocessor', mean=[0.] * 3, std=[1.] * 3),
            backbone=backbone,
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmat.LinearClsHead', num_classes=10, in_channels=channels)))
    model.init_weights()
    x = torch.randn(2, 3, 16, 16)
    paths = [find_layer(model, i) for i in range(stages)]
    # Nothing overwrites a tap in place.
    with tap(model.train(), paths) as taps:
        model(x, BatchedSamples(torch.tensor([3, 7])), mode='loss')['loss'].backward()
    assert list(taps) == paths
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert name.endswith(tuple(silent)) or parameter.grad.abs().sum() > 0, name
    model.eval()
    with torch.no_grad():
        features = model.backbone(x)[-1].mean((2, 3))
        torch.testing.assert_close(model(x), F.linear(features, model.head.fc.weight, model.head.fc.bias))


# Networks to compare

def lively(model, weights=False):
    """Draw BN parameters and convolution biases at random, so that swapped layers show; some BN weights are negative.

    With ``weights``, draw all parameters of convolutions and linear layers too.
    """
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, (nn.Conv2d, nn.Linear) if weights else nn.Conv2d):
            if weights:
                nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return model


def tensors(model, requires_grad=False):
    """A copy of the weights and running statistics, by name."""
    return {
        key: value.detach().clone().requires_grad_(requires_grad and 'running' not in key)
        for key, value in model.state_dict().items() if not key.endswith('num_batches_tracked')
    }


def dropout(x, p, training=True, inplace=False):
    """Deterministic replacement of dropout. It is not linear, since BN would cancel a factor."""
    return x - p * x * x if training else x


def close(found, expected, msg=None, rtol=1e-8):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-9, msg=msg)


def assert_same(found, expected, rtol=1e-8):
    """Two dictionaries of tensors have the same keys and values."""
    assert found.keys() == expected.keys()
    for key in expected:
        close(found[key], expected[key], msg=key, rtol=rtol)


# Networks of three local features and a global vector, in four parts: three compute the next local feature (the first
# from the image), and the fourth computes the global vector.

def join_parts(parts, x, out_indices=(0, 1, 2), average=False):
    """Run the network of these parts; with ``average``, gradients of branches are averaged."""

    def join(x, count):
        """The same value with a fraction of the gradient."""
        return x / count + (x - x / count).detach() if average else x

    outs = []
    *levels, descriptor = parts
    for index, part in enumerate(levels):
        x = part(x)
        if index in out_indices:
            x = join(x, 2)
            outs.append(x)
    return (*outs, join(descriptor(x), max(len(outs), 1)))


def scores(outs):
    """A scalar that combines every local feature with the global vector, as attention does."""
    *local, descriptor = outs
    result = descriptor.sin().sum()
    for index, feature in enumerate(local):
        weight = descriptor.roll(index, 1)[:, :feature.shape[1], None, None]
        result = result + ((feature * weight).flatten(1).sin() * (index + 1)).mean(1).sum()
    return result


def authors_backward(parts, x, out_indices, average):
    """Gradients of the score at the local features and the image, computed as in the authors' training loop.

    Each part has its own forward and backward pass. With ``average``, the gradient of g is averaged over the levels,
    and at each level the gradients of the attention and of the next part. Gradients of parameters accumulate.
    """
    starts, ends = [], []
    for part in parts:
        starts.append(x.detach().requires_grad_())
        ends.append(part(starts[-1]))
        x = ends[-1]
    leaves = [end.detach().requires_grad_() for end in ends]
    scores([*(leaves[i] for i in out_indices), leaves[3]]).backward()
    gradient = leaves[3].grad / (len(out_indices) if average and out_indices else 1)
    at_levels = []
    for index in (2, 1, 0):
        ends[index + 1].backward(gradient)
        gradient = starts[index + 1].grad
        if index in out_indices:
            gradient = (gradient + leaves[index].grad) / (2 if average else 1)
        at_levels.insert(0, gradient)
    ends[0].backward(gradient)
    return [*at_levels, starts[0].grad]


def assert_gradients(backbone, x, expected, params):
    """The score has the ``expected`` gradients at the stages and the image, and at weights those of ``params``."""
    model = nn.Module()
    model.backbone = backbone
    paths = [find_layer(model, i) for i in range(3)]
    with tap(model, paths) as taps:
        outs = backbone(x)
    # Methods that compare gradients at a layer read the same values.
    found = torch.autograd.grad(scores(outs), [*(taps[path] for path in paths), x], retain_graph=True)
    for one, other in zip(found, expected):
        assert other.abs().max() > 1e-6
        close(one, other)
    scores(outs).backward()
    for name, parameter in backbone.named_parameters():
        close(parameter.grad, params[name].grad, msg=name)


def assert_double_backward(model, parts, params, x, out_indices, average):
    """The norm of the score's gradient has equal parameter gradients in the model and in these parts."""
    norms = []
    for outs in (model(x), join_parts(parts, x, out_indices, average)):
        gradient, = torch.autograd.grad(scores(outs), x, create_graph=True)
        norms.append(gradient.square().sum())
        norms[-1].backward()
    close(norms[0], norms[1])
    assert norms[1] > 1e-9
    for name, parameter in model.named_parameters():
        # Compare whole tensors: single entries are differences of large terms.
        expected = params[name].grad
        assert (parameter.grad - expected).norm() <= 1e-8 * expected.norm() + 1e-12, name


def assert_same_values(models, x):
    """The second model, with the weights of the first, gives equal outputs with and without gradients. Return them."""
    models[1].load_state_dict(models[0].state_dict())
    expected = models[0](x)
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context:
            outs = models[1](x)
        assert len(outs) == len(expected)
        assert all(torch.equal(out, other) for out, other in zip(outs, expected))
    return expected


# Initialisation

def assert_normal(weight, std, name):
    """Five standard errors of the estimates; normal, not uniform: a uniform one never passes 1.74 std."""
    count = weight.numel()
    assert abs(weight.std().item() - std) < 5 * std / math.sqrt(2 * count), name
    assert abs(weight.mean().item()) < 5 * std / math.sqrt(count), name
    assert weight.abs().max() > 2 * std, name


def is_uniform(values, bound, reach=0.99):
    """Five standard errors of the estimates; uniform, not normal: the extremes nearly reach the bound."""
    values = values.detach().double()
    count = values.numel()
    std = bound / math.sqrt(3)
    return (reach * bound < values.abs().max() <= bound and abs(values.mean()) < 5 * std / math.sqrt(count)
            and abs(values.std() / std - 1) < 5 / math.sqrt(count))


def assert_initialised_bn(norm, name):
    """Weights in [0, 1), and torch's default for the rest."""
    assert norm.weight.min() >= 0 and norm.weight.max() < 1 and (norm.bias == 0).all(), name
    assert (norm.running_mean == 0).all() and (norm.running_var == 1).all(), name


def assert_uniform_bn_weights(weights):
    """The weights of all BN layers together spread over 0 to 1."""
    weights = torch.cat(weights)
    assert abs(weights.mean().item() - 0.5) < 5 * math.sqrt(1 / 12 / len(weights))
    assert weights.min() < 0.02 and weights.max() > 0.98


def initialised_sync_norms(model):
    """The synchronised BN layers of the model, converted and initialised."""
    # The Runner converts before it initialises.
    model = convert_sync_batchnorm(model)
    model.init_weights()
    return [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]


def assert_follows_the_seed(build, key):
    """Initialisation is equal for equal seeds and differs for another seed at ``key``."""
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = build()
        model.init_weights()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0][key], states[2][key])
