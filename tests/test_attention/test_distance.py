import math

import pytest
import torch
import torch.nn.functional as F

from mmat.attention import activation_distance, attention_distance, attention_map, normalize_map
from mmat.attention.distance import match_sizes
from mmat.errors import UserError


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


# Normalised rows are (0.6, 0.8) against (0, 1) and (1, 0) against (0, 1):
# differences (0.6, -0.2) and (1, -1).
STUDENT = [[[3., 4.]], [[7., 0.]]]
TEACHER = [[[0., 5.]], [[0., 2.]]]

GOLDEN = [
    # (0.36 + 0.04 + 1 + 1) / 4
    ('code', 2, 0.6),
    # (0.6 + 0.2 + 1 + 1) / 2
    ('paper', 1, 1.4),
    # (sqrt(0.4) + sqrt(2)) / 2
    ('paper', 2, 1.0233345472033855),
    # (cbrt(0.6^3 + 0.2^3) + cbrt(2)) / 2
    ('paper', 3, 0.9336194221350029),
    # ((0.6^1.5 + 0.2^1.5)^(2/3) + 2^(2/3)) / 2
    ('paper', 1.5, 1.131051054680026),
    # (0.6 + 1) / 2
    ('paper', float('inf'), 0.8),
]


@pytest.mark.parametrize('form, p, expected', GOLDEN)
def test_golden_values(form, p, expected):
    result = attention_distance(tensor(STUDENT), tensor(TEACHER), form=form, p=p)
    assert result.shape == ()
    assert result.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('form, p, expected', GOLDEN)
def test_scale_of_a_map_does_not_matter(form, p, expected):
    scales = tensor([[[1e-3]], [[250.]]])
    result = attention_distance(tensor(STUDENT) * scales, tensor(TEACHER) / scales, form=form, p=p)
    assert result.item() == pytest.approx(expected, rel=1e-12)


def test_default_is_the_code_form():
    assert attention_distance(tensor(STUDENT), tensor(TEACHER)).item() == pytest.approx(0.6, rel=1e-12)


def authors_at(x):
    return F.normalize(x.pow(2).mean(1).view(x.size(0), -1))


def authors_at_loss(x, y):
    return (authors_at(x) - authors_at(y)).pow(2).mean()


@pytest.mark.parametrize('student, teacher', [((4, 8, 6, 5), (4, 16, 6, 5)), ((1, 1, 8, 8), (1, 32, 8, 8)),
                                              ((3, 16, 1, 1), (3, 16, 1, 1))])
def test_code_form_is_the_authors_loss(student, teacher):
    torch.manual_seed(0)
    x = torch.randn(student, dtype=torch.float64, requires_grad=True)
    y = torch.randn(teacher, dtype=torch.float64)
    expected = authors_at_loss(x, y)
    result = attention_distance(attention_map(x), attention_map(y))
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-15)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (result, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-15)


def test_paper_form_is_equation_2_sample_by_sample():
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 5, 4, 3, dtype=torch.float64)
    total = 0
    for s, t in zip(student, teacher):
        s, t = s.flatten().tolist(), t.flatten().tolist()
        norm_s, norm_t = sum(v * v for v in s)**0.5, sum(v * v for v in t)**0.5
        total += sum((a / norm_s - b / norm_t)**2 for a, b in zip(s, t))**0.5
    result = attention_distance(student, teacher, form='paper')
    assert result.item() == pytest.approx(total / 5, rel=1e-12)


@pytest.mark.parametrize('student_scale', [1e-24, 1e-12, 1., 1e12, 1e30])
@pytest.mark.parametrize('form, expected', [('code', 0.6), ('paper', 1.0233345472033855)])
def test_float32_holds_maps_whose_squares_it_does_not(form, expected, student_scale):
    student, teacher = torch.tensor(STUDENT) * student_scale, torch.tensor(TEACHER) / student_scale
    assert attention_distance(student, teacher, form).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('form, expected', [('code', 0.6), ('paper', 1.0233345472033855)])
def test_autocast_does_not_lower_the_precision(form, expected):
    with torch.autocast('cpu', torch.bfloat16):
        result = attention_distance(torch.tensor(STUDENT), torch.tensor(TEACHER), form)
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(expected, rel=1e-6)


def test_half_precision_features_under_autocast():
    # (-60000, 60000 / 2) against (0, 60000): maps in the ratio 4 : 1 against 0 : 1.
    student = torch.tensor([[[[-60000., 30000.]]]]).half().expand(1, 8, 1, 2)
    teacher = torch.tensor([[[[0., 60000.]]]]).half().expand(1, 8, 1, 2)
    with torch.autocast('cpu', torch.bfloat16):
        result = attention_distance(attention_map(student), attention_map(teacher))
    # (16 / 17 + (1 / sqrt(17) - 1)^2) / 2
    assert result.item() == pytest.approx(1 - 17**-0.5, rel=1e-6)


@pytest.mark.parametrize('size', [(2, 2), (1, 4), (4, 1)])
@pytest.mark.parametrize('form, p', [('code', 2), ('paper', 1), ('paper', 2), ('paper', 3)])
def test_gradcheck(form, p, size):
    torch.manual_seed(0)
    student = (0.5 + torch.rand(2, 2, 4, dtype=torch.float64)).requires_grad_()
    teacher = 0.5 + torch.rand(2, *size, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: attention_distance(x, teacher, form, p), student)


@pytest.mark.parametrize('form, p', [('code', 2), ('paper', 1), ('paper', 1.5), ('paper', 2), ('paper', 3)])
def test_identical_maps_have_distance_and_gradient_zero(form, p):
    torch.manual_seed(0)
    features = torch.randn(2, 4, 3, 3, requires_grad=True)
    distance = attention_distance(attention_map(features), attention_map(features.detach()), form, p)
    distance.backward()
    assert distance.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize('map_p, reduction', [(1, 'sum'), (2, 'sum'), (1, 'max'), (4, 'max')])
@pytest.mark.parametrize('form, p', [('code', 2), ('paper', 1), ('paper', 2), ('paper', 3)])
@pytest.mark.parametrize('dead_teacher', [False, True])
def test_all_zero_maps_give_finite_gradients(form, p, map_p, reduction, dead_teacher):
    features = torch.zeros(2, 4, 3, 3)
    features[1] = 1 + torch.arange(9.).view(3, 3)
    features.requires_grad_()
    teacher = torch.zeros(2, 3, 3) if dead_teacher else torch.ones(2, 3, 3)
    distance = attention_distance(attention_map(features, map_p, reduction), teacher, form, p)
    distance.backward()
    assert distance.isfinite()
    # A dead sample has no gradient and does not affect the live one.
    assert torch.equal(features.grad[0], torch.zeros(4, 3, 3))
    assert features.grad[1].isfinite().all()
    assert dead_teacher or features.grad[1].abs().sum() > 0


def test_distance_from_an_all_zero_map_is_the_norm_of_the_other():
    # One half of it: the teacher's (0.6, 0.8) squared and averaged over two positions.
    assert attention_distance(tensor([[[0., 0.]]]), tensor([[[3., 4.]]])).item() == pytest.approx(0.5, rel=1e-12)
    assert attention_distance(tensor([[[0., 0.]]]), tensor([[[0., 0.]]])).item() == 0


@pytest.mark.parametrize('scale', [1e-30, 1e-20, 1e-10, 1e-5, 1e5])
@pytest.mark.parametrize('form', ['code', 'paper'])
def test_gradient_is_finite_for_activations_of_any_scale(form, scale):
    features = torch.tensor([[[[1., -2., 3., 0.]]]]).mul(scale).requires_grad_()
    attention_distance(attention_map(features), torch.ones(1, 1, 4), form).backward()
    assert features.grad.isfinite().all()


def test_the_student_gets_the_whole_gradient():
    student = torch.tensor(STUDENT, requires_grad=True)
    attention_distance(student, torch.tensor(TEACHER)).backward()
    # Sample 1: q = (1, 0), dL/dq = (1, -1) / 2; projected off q: (0, -0.5), divided by the norm 7.
    torch.testing.assert_close(student.grad[1], torch.tensor([[0., -0.5 / 7]]), rtol=1e-6, atol=1e-8)


def test_unequal_sizes_pool_the_maps_not_the_activations():
    student = tensor([[[3., 4.]]])
    # Columns of opposite signs: |.| averages to (4, 3), while the activations average to (-1, -2).
    teacher = tensor([[[[3., 1.], [-5., -5.]]]])
    result = attention_distance(student, attention_map(teacher, p=1))
    # (0.6, 0.8) - (0.8, 0.6), squared and averaged
    assert result.item() == pytest.approx(0.04, rel=1e-12)
    wrong = attention_distance(student, attention_map(F.adaptive_avg_pool2d(teacher, (1, 2)), p=1))
    # (0.6, 0.8) - (1, 2) / sqrt(5)
    assert wrong.item() == pytest.approx(0.01613008990009, rel=1e-10)


@pytest.mark.parametrize('student, teacher, expected', [
    # The student is the larger one: 4x4 of 2x2 tiles of 1, 2, 3, 4 give back the tiles' means.
    ([[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]], [[[1, 2], [3, 4]]], 0.),
    # Each is larger in one direction: (2, 1) and (1, 2) meet at (1, 1), where every map is 1.
    ([[[1], [5]]], [[[9, 2]]], 0.),
    # Windows that overlap: 3 positions become the means of the first two and of the last two, here (3, 4).
    ([[[1, 5, 3]]], [[[0, 1]]], 0.2),
])
def test_pooling(student, teacher, expected):
    assert attention_distance(tensor(student), tensor(teacher)).item() == pytest.approx(expected, abs=1e-14)


def test_pooling_precedes_normalisation():
    # Maps (1, 7) -> 4 and (2, 4) -> 3 by columns; with each normalised first the ratio would be the same, but the
    # second sample's scale is not the first's.
    student = tensor([[[1., 2.], [7., 4.]], [[10., 20.], [70., 40.]]])
    teacher = tensor([[[4., 3.]], [[4., 3.]]])
    assert attention_distance(student, teacher).item() == pytest.approx(0, abs=1e-30)


def test_unequal_sizes_raise_on_request():
    student, teacher = torch.ones(2, 4, 4), torch.ones(2, 8, 8)
    with pytest.raises(UserError, match=r'\(4, 4\).*\(8, 8\)') as error:
        attention_distance(student, teacher, size_mismatch='error')
    assert 'size_mismatch' in str(error.value)
    assert attention_distance(student, student, size_mismatch='error').item() == 0


@pytest.mark.parametrize('student, teacher, message', [
    ((2, 3, 4, 4), (2, 4, 4), r'\(N, H, W\).*student.*\(2, 3, 4, 4\)'),
    ((2, 4, 4), (2, 16), r'\(N, H, W\).*teacher.*\(2, 16\)'),
    ((2, 4, 4), (3, 4, 4), '2 student.*3 teacher'),
    # A batch of one would broadcast silently.
    ((4, 2, 2), (1, 2, 2), '4 student.*1 teacher'),
])
def test_refuses_wrong_shapes(student, teacher, message):
    with pytest.raises(UserError, match=message):
        attention_distance(torch.ones(student), torch.ones(teacher))


@pytest.mark.parametrize('options, message', [
    (dict(form='papers'), "form.*'code', 'paper'.*'papers'"),
    (dict(form='paper', p=0.5), r'\bp\b.*1.*0\.5'),
    (dict(form='paper', p=float('nan')), r'\bp\b.*1.*nan'),
    (dict(form='code', p=1), "form='code'.*p=2.*1.*form='paper'"),
    (dict(size_mismatch='resize'), "size_mismatch.*'pool', 'error'.*'resize'"),
])
def test_refuses_unknown_options(options, message):
    with pytest.raises(UserError, match=message):
        attention_distance(torch.ones(1, 2, 2), torch.ones(1, 2, 2), **options)


def test_normalize_map():
    result = normalize_map(tensor([[[3., 0.], [0., 4.]], [[0., 0.], [0., 0.]], [[0., 1e-30], [0., 0.]]]))
    torch.testing.assert_close(result, tensor([[0.6, 0, 0, 0.8], [0, 0, 0, 0], [0, 1, 0, 0]]), rtol=1e-14, atol=0)


@pytest.mark.parametrize('student, teacher, expected', [
    # Smaller at the student, at the teacher, each in one direction.
    ([[1., 3.]], [[2., 4.], [6., -8.]], ([[1., 3.]], [[4., -2.]])),
    ([[2., 4.], [6., -8.]], [[1., 3.]], ([[4., -2.]], [[1., 3.]])),
    ([[1.], [5.]], [[9., -2.]], ([[3.]], [[3.5]])),
    # Three positions become the means of the first two and of the last two.
    ([[1., 5., 3.]], [[0., 1.]], ([[3., 4.]], [[0., 1.]])),
])
@pytest.mark.parametrize('leading', [(1, ), (3, ), (2, 5)])
def test_match_sizes_averages_down_to_the_smaller(leading, student, teacher, expected):
    results = match_sizes(*(tensor(value).repeat(*leading, 1, 1) for value in (student, teacher)))
    for result, value in zip(results, expected):
        torch.testing.assert_close(result, tensor(value).repeat(*leading, 1, 1), rtol=1e-14, atol=0)


@pytest.mark.parametrize('size_mismatch', ['pool', 'error'])
@pytest.mark.parametrize('leading', [(2, ), (2, 3)])
def test_match_sizes_leaves_equal_sizes_alone(leading, size_mismatch):
    student, teacher = torch.ones(*leading, 3, 4), torch.zeros(*leading, 3, 4)
    results = match_sizes(student, teacher, size_mismatch)
    assert results[0] is student and results[1] is teacher


@pytest.mark.parametrize('student, teacher', [((2, 4, 4), (2, 8, 8)), ((2, 3, 4, 5), (2, 3, 4, 4)),
                                              ((2, 3, 3, 4), (2, 3, 4, 3))])
def test_match_sizes_raises_on_request(student, teacher):
    with pytest.raises(UserError, match='size_mismatch') as error:
        match_sizes(torch.ones(student), torch.ones(teacher), 'error')
    for part in (f'student map {student[-2:]}', f'teacher map {teacher[-2:]}'):
        assert part in str(error.value)


# STUDENT and TEACHER with channels, positions or both as the vector, the second teacher negated: unit vectors
# (0.6, 0.8) against (0, 1) and (1, 0) against (0, -1), so (0.36 + 0.04 + 1 + 1) / 2.
@pytest.mark.parametrize('shape', [(2, 2, 1, 1), (2, 1, 1, 2), (2, 1, 2, 1)])
def test_activation_distance_by_hand(shape):
    student, teacher = tensor(STUDENT).view(shape), (tensor(TEACHER) * tensor([[[1.]], [[-1.]]])).view(shape)
    result = activation_distance(student, teacher)
    assert result.shape == () and result.dtype == torch.float64
    assert result.item() == pytest.approx(1.2, rel=1e-12)


def test_activation_distance_normalises_a_whole_sample():
    # Norms 2 and 10: (1, 1, 1, 1) / 2 against (1, 2, 2, 4) / 5 at their signs: 0.09 + 0.01 + 0.01 + 1.69.
    student = tensor([[[[1., 1.]], [[-1., 1.]]]])
    teacher = tensor([[[[2., 4.]], [[-4., -8.]]]])
    assert activation_distance(student, teacher).item() == pytest.approx(1.8, rel=1e-12)


@pytest.mark.parametrize('shape', [(1, 1, 2, 2), (4, 8, 6, 5), (3, 16, 1, 1), (128, 2, 3, 3)])
def test_activation_distance_is_plain_pytorch(shape):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    student.requires_grad_()
    s, t = student.flatten(1), teacher.flatten(1)
    s, t = s / s.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
    expected = (s - t).pow(2).sum() / shape[0]
    result = activation_distance(student, teacher)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-15)
    # Of unit vectors, the squared distance is 2 - 2 cos.
    torch.testing.assert_close(result, 2 - 2 * F.cosine_similarity(s, t).mean(), rtol=1e-12, atol=1e-15)
    gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (result, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize('size', [1, 4, 16])
def test_activation_distance_is_between_0_and_4_for_any_size(size):
    torch.manual_seed(0)
    student = torch.randn(5, size, size, size, dtype=torch.float64)
    factor = tensor([1e-3, 0.5, 1, 3, 1e3]).view(5, 1, 1, 1)
    assert activation_distance(student, student).item() == 0
    assert activation_distance(student, student * factor).item() == pytest.approx(0, abs=1e-28)
    assert activation_distance(student, -student * factor).item() == pytest.approx(4, rel=1e-12)
    # One of five with opposite sign: 4 / 5.
    turned = student * tensor([-1, 1, 1, 1, 1]).view(5, 1, 1, 1)
    assert activation_distance(student, turned).item() == pytest.approx(0.8, rel=1e-12)
    assert 0 <= activation_distance(student, torch.randn_like(student)).item() <= 4


@pytest.mark.parametrize('scale', [1e-24, 1e-12, 1e12, 1e30])
def test_activation_distance_in_float32_does_not_depend_on_the_scale(scale):
    torch.manual_seed(0)
    student, teacher = 1 + torch.rand(2, 3, 4, 2, 2)
    expected = activation_distance(student.double(), -teacher.double())
    result = activation_distance(student * scale, -teacher / scale)
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=0)


def test_activation_distance_pools_the_activations_before_it_normalises():
    # Columns: (2, 4) of the first sample average to 3, (7, 1) to 4, the signs kept; the second sample's other scale
    # drops out only after the mean.
    teacher = tensor([[[[2., 7.], [4., 1.]]], [[[20., -70.], [40., -10.]]]])
    student = tensor([[[[6., 8.]]], [[[6., 8.]]]])
    # 0, and (0.6, 0.8) against (0.6, -0.8): 2.56
    assert activation_distance(student, teacher).item() == pytest.approx(1.28, rel=1e-12)
    assert activation_distance(teacher, student).item() == pytest.approx(1.28, rel=1e-12)
    # Opposite signs meet: (5, -5) averages to 0, while its absolute values would not.
    cancelled = tensor([[[[3., 5.], [3., -5.]]]])
    assert activation_distance(tensor([[[[1., 0.]]]]), cancelled).item() == 0


@pytest.mark.parametrize('student, teacher', [((4, 4), (8, 8)), ((2, 8), (4, 4))])
def test_activation_distance_raises_for_unequal_sizes_on_request(student, teacher):
    s, t = torch.ones(2, 3, *student), torch.ones(2, 3, *teacher)
    with pytest.raises(UserError, match='size_mismatch') as error:
        activation_distance(s, t, size_mismatch='error')
    for size in (student, teacher):
        assert str(size) in str(error.value)
    assert activation_distance(s, s, size_mismatch='error').item() == 0
    assert activation_distance(s, t).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize('student, teacher', [((2, 2), (2, 2)), ((2, 4), (1, 4)), ((2, 2), (4, 3)), ((3, 2), (2, 3))])
def test_activation_distance_gradcheck(student, teacher):
    torch.manual_seed(0)
    student = torch.randn(2, 3, *student, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, *teacher, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: activation_distance(x, teacher), student)


@pytest.mark.parametrize('student_dtype, teacher_dtype', [
    (torch.float16, torch.float16), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32),
    (torch.float32, torch.bfloat16), (torch.float32, torch.float32)])
@pytest.mark.parametrize('size', [(4, 4), (2, 2)])
@pytest.mark.parametrize('autocast', [False, True])
def test_activation_distance_is_computed_in_float32(autocast, size, student_dtype, teacher_dtype):
    torch.manual_seed(0)
    # Squares of these are beyond fp16, and so are sums of two.
    student = (1e4 * torch.randn(2, 8, 4, 4)).clamp(-6e4, 6e4).to(student_dtype).requires_grad_()
    teacher = (1e4 * torch.randn(2, 8, *size)).clamp(-6e4, 6e4).to(teacher_dtype)
    expected = activation_distance(student.detach().double(), teacher.double())
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        result = activation_distance(student, teacher)
    assert result.dtype == torch.float32
    # float32's rounding; half precision's would be off by 1e-4 and more, also if only the pooling ran in it.
    torch.testing.assert_close(result.detach().double(), expected, rtol=2e-6, atol=0)
    result.backward()
    assert student.grad.dtype == student_dtype and student.grad.isfinite().all()


def test_distance_from_a_zero_activation_is_1():
    student, teacher = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    student[1] = -2
    assert activation_distance(student, teacher).item() == pytest.approx((1 + 4) / 2, rel=1e-6)
    assert activation_distance(student, torch.zeros(2, 3, 2, 2)).item() == pytest.approx((0 + 1) / 2, rel=1e-6)


@pytest.mark.parametrize('scale', [1, 65536])
def test_a_zero_activation_has_no_gradient(scale):
    student = torch.zeros(2, 3, 2, 2)
    student[1] = torch.arange(12.).view(3, 2, 2)
    student.requires_grad_()
    (scale * activation_distance(student, torch.ones(2, 3, 2, 2))).backward()
    # A zero sample has no gradient and does not affect the live one.
    assert student.grad[1].isfinite().all() and student.grad[1].abs().sum() > 0
    assert torch.equal(student.grad[0], torch.zeros(3, 2, 2))


@pytest.mark.parametrize('student, teacher', [
    ((2, 4, 4), (2, 4, 4)),
    ((2, 3, 4), (2, 3, 4, 4)),
    ((2, 3, 4, 4), (2, 3, 4)),
    ((1, 2, 3, 4, 4), (1, 2, 3, 4, 4)),
    ((2, 3, 4, 4), (2, 4, 4, 4)),
    # These would broadcast silently.
    ((2, 3, 4, 4), (1, 3, 4, 4)),
    ((2, 3, 1, 1), (2, 1, 1, 1)),
])
def test_activation_distance_refuses_wrong_shapes(student, teacher):
    with pytest.raises(UserError, match=r'\(N, C, H, W\)') as error:
        activation_distance(torch.ones(student), torch.ones(teacher))
    assert f'{student} and {teacher}' in str(error.value)


def test_activation_distance_refuses_unknown_options():
    with pytest.raises(UserError, match="size_mismatch.*'pool', 'error'.*'resize'"):
        activation_distance(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), size_mismatch='resize')


def test_nan_propagates():
    broken = torch.rand(2, 4, 4)
    broken[0, 0, 0] = math.nan
    assert normalize_map(broken)[0].isnan().any() and attention_distance(broken, torch.rand(2, 4, 4)).isnan()
