import itertools
import math

import pytest
import torch

from mmat.attention import attend, dot_product_compatibility, normalize_scores, parametrised_compatibility
from mmat.errors import UserError

COMBINATIONS = list(itertools.product(['pc', 'dp'], ['softmax', 'sigmoid']))
every_combination = pytest.mark.parametrize('compatibility, normalization', COMBINATIONS)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


# One sample of two channels at two positions: l_1 = (1, 2), l_2 = (3, -1).
LOCAL = [[[[1., 3.]], [[2., -1.]]]]
DESCRIPTOR = [[2., 1.]]
WEIGHT = [1., 2.]


def features(dtype=torch.float64, shape=(3, 5, 4, 2)):
    """Local and global features, the weight and the bias of 'pc'; no two sizes are alike."""
    torch.manual_seed(0)
    n, channels = shape[:2]
    return (torch.randn(shape, dtype=dtype), torch.randn(n, channels, dtype=dtype), torch.randn(channels, dtype=dtype),
            torch.randn(1, dtype=dtype))


def score(compatibility, local, descriptor, weight, bias):
    if compatibility == 'dp':
        return dot_product_compatibility(local, descriptor)
    return parametrised_compatibility(local, descriptor, weight, bias)


def learned(compatibility, normalization, *inputs):
    """The pooled vector and its attention map."""
    attention = normalize_scores(score(compatibility, *inputs), normalization)
    return attend(inputs[0], attention, normalization), attention


def position_by_position(compatibility, normalization, local, descriptor, weight, bias):
    """The same in plain Python, equation by equation."""
    vectors, maps = [], []
    height, width = local.shape[2:]
    for sample, g in zip(local.tolist(), descriptor.tolist()):
        channels = range(len(g))
        scores = [[0.] * width for _ in range(height)]
        for y, x in itertools.product(range(height), range(width)):
            for k in channels:
                if compatibility == 'pc':
                    scores[y][x] += weight[k].item() * (sample[k][y][x] + g[k])
                else:
                    scores[y][x] += sample[k][y][x] * g[k]
            if compatibility == 'pc':
                scores[y][x] += bias.item()
        if normalization == 'softmax':
            total = sum(math.exp(value) for row in scores for value in row)
            attention = [[math.exp(value) / total for value in row] for row in scores]
        else:
            attention = [[1 / (1 + math.exp(-value)) for value in row] for row in scores]
        divisor = 1 if normalization == 'softmax' else height * width
        vectors.append([sum(attention[y][x] * sample[k][y][x] for y in range(height) for x in range(width)) / divisor
                        for k in channels])
        maps.append(attention)
    return tensor(vectors), tensor(maps)


# By hand

@pytest.mark.parametrize('bias, expected', [
    # <(1, 2), (3, 3)> and <(1, 2), (5, 0)>
    (None, [[[9., 5.]]]),
    (tensor([0.5]), [[[9.5, 5.5]]]),
    (tensor(-1.), [[[8., 4.]]]),
])
def test_parametrised_compatibility_by_hand(bias, expected):
    result = parametrised_compatibility(tensor(LOCAL), tensor(DESCRIPTOR), tensor(WEIGHT), bias)
    assert torch.equal(result, tensor(expected))


def test_dot_product_compatibility_by_hand():
    # <(1, 2), (2, 1)> and <(3, -1), (2, 1)>
    assert torch.equal(dot_product_compatibility(tensor(LOCAL), tensor(DESCRIPTOR)), tensor([[[4., 5.]]]))


@pytest.mark.parametrize('normalization, expected', [
    # Odds 3 : 1 : 4 : 2, and 3/4, 1/2, 4/5, 2/3; the second sample's are all equal.
    ('softmax', [[[0.3, 0.1], [0.4, 0.2]], [[0.25, 0.25], [0.25, 0.25]]]),
    ('sigmoid', [[[3 / 4, 1 / 2], [4 / 5, 2 / 3]], [[5 / 6, 5 / 6], [5 / 6, 5 / 6]]]),
])
def test_normalize_scores_by_hand(normalization, expected):
    scores = tensor([[[3., 1.], [4., 2.]], [[5., 5.], [5., 5.]]]).log()
    torch.testing.assert_close(normalize_scores(scores, normalization), tensor(expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize('normalization, expected', [
    # 0.25 (1, 2) + 0.75 (3, -1), and half of it
    ('softmax', [[2.5, -0.25]]),
    ('sigmoid', [[1.25, -0.125]]),
])
def test_attend_by_hand(normalization, expected):
    result = attend(tensor(LOCAL), tensor([[[0.25, 0.75]]]), normalization)
    torch.testing.assert_close(result, tensor(expected), rtol=1e-14, atol=0)


def test_softmax_is_the_default():
    local, scores = tensor(LOCAL), tensor([[[1., 2.]]])
    attention = normalize_scores(scores)
    assert torch.equal(attention, normalize_scores(scores, 'softmax'))
    assert torch.equal(attend(local, attention), attend(local, attention, 'softmax'))


# Against plain Python

@every_combination
@pytest.mark.parametrize('shape', [(3, 5, 4, 2), (1, 1, 1, 3), (2, 3, 1, 1)])
def test_position_by_position(compatibility, normalization, shape):
    inputs = features(shape=shape)
    results = learned(compatibility, normalization, *inputs)
    for result, expected in zip(results, position_by_position(compatibility, normalization, *inputs)):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-14)


def test_softmax_sums_to_one_over_the_positions_of_each_sample():
    maps = normalize_scores(torch.randn(3, 4, 2, dtype=torch.float64))
    assert maps.shape == (3, 4, 2)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)


# Gradients

@every_combination
def test_gradcheck(compatibility, normalization):
    inputs = [each.requires_grad_() for each in features(shape=(2, 3, 2, 3))]
    assert torch.autograd.gradcheck(lambda *args: learned(compatibility, normalization, *args), inputs)


@every_combination
def test_only_pc_under_softmax_ignores_the_descriptor(compatibility, normalization):
    local, descriptor, weight, bias = inputs = [each.requires_grad_() for each in features()]
    pooled, attention = learned(compatibility, normalization, *inputs)
    direction = torch.arange(1., pooled.numel() + 1, dtype=pooled.dtype).view_as(pooled)
    to_local, to_descriptor = torch.autograd.grad((pooled * direction).sum(), (local, descriptor), retain_graph=True)
    assert to_local.abs().min() > 1e-6
    other = learned(compatibility, normalization, local, descriptor + 1, weight, bias)[1]
    if (compatibility, normalization) == ('pc', 'softmax'):
        assert to_descriptor.abs().max() < 1e-12
        torch.testing.assert_close(other, attention, rtol=1e-12, atol=1e-15)
        # The bias cancels too.
        assert torch.autograd.grad((pooled * direction).sum(), bias)[0].abs() < 1e-12
    else:
        assert to_descriptor.abs().min() > 1e-6
        assert (other - attention).abs().max() > 1e-3


# Other types and layouts

@pytest.mark.parametrize('normalization', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('autocast', [False, True])
def test_maps_are_float32(dtype, normalization, autocast):
    torch.manual_seed(0)
    scores = torch.randn(3, 4, 2).to(dtype)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        result = normalize_scores(scores, normalization)
    assert result.dtype == torch.float32
    # In float32 precision, though the scores have less.
    torch.testing.assert_close(result.double(), normalize_scores(scores.double(), normalization), rtol=1e-6, atol=0)


@pytest.mark.parametrize('autocast', [False, True])
def test_float64_stays(autocast):
    inputs = features()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        pooled, attention = learned('dp', 'sigmoid', *inputs)
    assert pooled.dtype == attention.dtype == torch.float64
    assert torch.equal(pooled, learned('dp', 'sigmoid', *inputs)[0])


@pytest.mark.parametrize('dtype, huge', [(torch.float16, 65504.), (torch.bfloat16, 3e38), (torch.float32, 3e38),
                                         (torch.float64, 1e308)])
def test_huge_scores_do_not_overflow(dtype, huge):
    scores = torch.tensor([[[huge, 0., -huge]], [[huge, -huge, huge]], [[-huge, -huge, -huge]]], dtype=dtype)
    third = pytest.approx(1 / 3)
    scores.requires_grad_()
    softmax, sigmoid = normalize_scores(scores, 'softmax'), normalize_scores(scores, 'sigmoid')
    assert softmax.flatten(1).tolist() == [[1, 0, 0], [0.5, 0, 0.5], [third, third, third]]
    assert sigmoid.flatten(1).tolist() == [[1, 0.5, 0], [1, 0, 1], [0, 0, 0]]
    (softmax + sigmoid)[..., 0].sum().backward()
    assert scores.grad.isfinite().all()


@every_combination
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_features(compatibility, normalization, dtype):
    inputs = features(dtype)
    pooled, attention = learned(compatibility, normalization, *inputs)
    assert pooled.dtype == dtype and attention.dtype == torch.float32
    expected = learned(compatibility, normalization, *(each.double() for each in inputs))[0]
    assert (pooled.double() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize('autocast', [False, True])
def test_mean_under_sigmoids_does_not_overflow(autocast):
    # The sum of 1024 positions of 100 overflows in float16; the mean does not.
    local, attention = torch.full((1, 1, 32, 32), 100.), torch.ones(1, 32, 32)
    with torch.autocast('cpu', torch.float16, enabled=autocast):
        assert attend(local if autocast else local.half(), attention, 'sigmoid').tolist() == [[100]]


def test_under_autocast_the_descriptor_does_not_absorb_the_local_features():
    torch.manual_seed(0)
    local, weight = torch.randn(1, 64, 8, 8), torch.full((64, ), 0.2)
    # It cancels under the softmax.
    descriptor = torch.full((1, 64), 30.)
    expected = normalize_scores(parametrised_compatibility(local, descriptor, weight))
    with torch.autocast('cpu', torch.bfloat16):
        result = normalize_scores(parametrised_compatibility(local, descriptor, weight))
    assert (result - expected).norm() < 0.02 * expected.norm()


@every_combination
def test_bfloat16_autocast(compatibility, normalization):
    inputs = features(torch.float32)
    expected = learned(compatibility, normalization, *inputs)
    with torch.autocast('cpu', torch.bfloat16):
        pooled, attention = learned(compatibility, normalization, *inputs)
    assert pooled.dtype == torch.bfloat16 and attention.dtype == torch.float32
    for found, value in zip((pooled, attention), expected):
        assert (found.float() - value).norm() < 0.02 * value.norm()


@every_combination
def test_channels_last(compatibility, normalization):
    local, *others = features()
    expected = learned(compatibility, normalization, local, *others)
    local = local.contiguous(memory_format=torch.channels_last)
    assert not local.is_contiguous()
    for found, value in zip(learned(compatibility, normalization, local, *others), expected):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-14)


# Options

@pytest.mark.parametrize('function', [lambda n: normalize_scores(torch.ones(1, 1, 2), n),
                                      lambda n: attend(torch.ones(1, 3, 1, 2), torch.ones(1, 1, 2), n)])
@pytest.mark.parametrize('normalization', ['Softmax', 'relu', '', None])
def test_refuses_unknown_normalizations(function, normalization):
    with pytest.raises(UserError, match=rf"normalization.*\('softmax', 'sigmoid'\).*{normalization!r}"):
        function(normalization)
