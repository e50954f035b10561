import pytest
import torch

from mmat.attention import attention_map
from mmat.errors import UserError

# One sample, two channels, one row of three positions, both signs.
FEATURES = [[[[1., -2., 0.]], [[-3., 0.5, 0.]]]]

GOLDEN = [
    ('sum', 1, [4, 2.5, 0]),
    ('sum', 2, [10, 4.25, 0]),
    ('sum', 3, [28, 8.125, 0]),
    ('sum', 4, [82, 16.0625, 0]),
    # 1 + 3^1.5 and 2^1.5 + 0.5^1.5
    ('sum', 1.5, [6.196152422706632, 3.181980515339464, 0]),
    ('max', 1, [3, 2, 0]),
    ('max', 2, [9, 4, 0]),
    ('max', 3, [27, 8, 0]),
    ('max', 4, [81, 16, 0]),
]


@pytest.mark.parametrize('reduction, p, expected', GOLDEN)
def test_golden_values(reduction, p, expected):
    result = attention_map(torch.tensor(FEATURES, dtype=torch.float64), p=p, reduction=reduction)
    torch.testing.assert_close(result, torch.tensor([[expected]], dtype=torch.float64), rtol=1e-14, atol=0)


def test_default_is_the_sum_of_squares():
    assert attention_map(torch.tensor(FEATURES)).tolist() == [[[10, 4.25, 0]]]


@pytest.mark.parametrize('reduction', ['sum', 'max'])
@pytest.mark.parametrize('p', [1, 1.5, 2, 3, 4])
def test_equals_a_loop_over_samples_and_positions(reduction, p):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = torch.empty(2, 4, 5, dtype=torch.float64)
    fold = dict(sum=sum, max=max)[reduction]
    for n in range(2):
        for h in range(4):
            for w in range(5):
                expected[n, h, w] = fold(abs(features[n, c, h, w].item())**p for c in range(3))
    torch.testing.assert_close(attention_map(features, p, reduction), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize('dtype, expected', [
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
])
@pytest.mark.parametrize('reduction, p', [('sum', 1), ('sum', 2), ('sum', 3), ('max', 1), ('max', 2)])
def test_dtype(dtype, expected, reduction, p):
    features = torch.ones(1, 2, 3, 3, dtype=dtype)
    assert attention_map(features, p, reduction).dtype == expected
    with torch.autocast('cpu', torch.bfloat16):
        assert attention_map(features, p, reduction).dtype == expected


@pytest.mark.parametrize('reduction, p, expected', [
    ('sum', 1, 240000.),
    ('sum', 2, 14400000000.),
    ('max', 2, 3600000000.),
])
@pytest.mark.parametrize('autocast', [False, True])
def test_large_half_precision_activations_do_not_overflow(reduction, p, expected, autocast):
    # 60000 is exact in fp16, whose largest value is 65504; four of them already sum to more.
    features = torch.full((1, 4, 2, 2), -60000., dtype=torch.float16)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        result = attention_map(features, p, reduction)
    assert torch.equal(result, torch.full((1, 2, 2), expected))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('p', [1, 2, 3])
def test_half_precision_is_raised_before_the_power_under_autocast(dtype, p):
    torch.manual_seed(0)
    features = torch.randn(2, 64, 3, 3).to(dtype)
    expected = features.double().abs().pow(p).sum(1)
    with torch.autocast('cpu', torch.bfloat16):
        result = attention_map(features, p)
    # float32's rounding over 64 terms; bfloat16's would be off by 1e-3.
    torch.testing.assert_close(result.double(), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize('reduction', ['sum', 'max'])
@pytest.mark.parametrize('p', [1, 1.5, 2, 3, 4])
def test_gradcheck(reduction, p):
    torch.manual_seed(0)
    # Away from 0, where |.| has a kink, and without ties, where max has one.
    features = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    features = (features + 0.5 * features.sign()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention_map(x, p, reduction), features)


@pytest.mark.parametrize('reduction', ['sum', 'max'])
@pytest.mark.parametrize('p', [1, 1.5, 2, 3])
def test_gradient_at_zero_is_zero(reduction, p):
    features = torch.zeros(2, 3, 2, 2, requires_grad=True)
    attention_map(features, p, reduction).sum().backward()
    assert torch.equal(features.grad, torch.zeros(2, 3, 2, 2))


def test_gradient_keeps_the_dtype_of_the_features():
    features = torch.full((1, 2, 1, 1), 3., dtype=torch.bfloat16, requires_grad=True)
    attention_map(features).sum().backward()
    assert features.grad.dtype == torch.bfloat16
    assert features.grad.tolist() == [[[[6.]], [[6.]]]]


# The sum of squares has its own backward pass, and depends on layout, precision and size.

@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype, tolerance', [
    (torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
# The second is split into chunks, the last one smaller.
@pytest.mark.parametrize('shape', [(2, 5, 3, 4), (7, 8, 160, 160), (3, 1, 2, 2), (0, 3, 2, 2), (2, 3, 1, 1)])
def test_sum_of_squares_and_its_gradient(shape, dtype, tolerance, layout):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.rand(shape[0], *shape[2:], generator=generator, dtype=torch.float64)
    features = values.contiguous(memory_format=layout).requires_grad_()
    result = attention_map(features)
    (result * weight).sum().backward()
    expected = values.double().pow(2).sum(1)
    torch.testing.assert_close(result.double(), expected, rtol=max(1e-14, 2e-6 * (dtype != torch.float64)), atol=0)
    assert features.grad.dtype == dtype
    torch.testing.assert_close(
        features.grad.double(), 2 * weight[:, None] * values.double(), rtol=tolerance, atol=tolerance * 1e-2)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_sum_of_squares_is_twice_differentiable_and_by_sample(layout):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 2, 2, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(attention_map, features)
    assert torch.autograd.gradgradcheck(attention_map, features)
    per_sample = torch.func.vmap(torch.func.grad(lambda x: attention_map(x[None]).sum()))(features.detach())
    torch.testing.assert_close(per_sample, 2 * features.detach(), rtol=1e-14, atol=0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_sum_of_squares_saves_only_the_features(layout, dtype):
    features = torch.ones(2, 4, 8, 8, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda x: x):
        attention_map(features)
    assert kept and set(kept) == {features.data_ptr()}


@pytest.mark.parametrize('shape', [(3, 4, 4), (2, 64), (1, 2, 3, 4, 4)])
def test_features_that_are_not_4d_are_refused(shape):
    with pytest.raises(UserError, match=r'\(N, C, H, W\)') as error:
        attention_map(torch.zeros(shape))
    assert str(tuple(shape)) in str(error.value)


@pytest.mark.parametrize('options, message', [
    (dict(p=0.5), r'\bp\b.*1.*0\.5'),
    (dict(p=0), r'\bp\b.*1.*0'),
    (dict(p=float('nan')), r'\bp\b.*1.*nan'),
    (dict(reduction='mean'), "reduction.*'sum', 'max'.*'mean'"),
])
def test_refuses_unknown_options(options, message):
    with pytest.raises(UserError, match=message):
        attention_map(torch.zeros(1, 1, 1, 1), **options)
