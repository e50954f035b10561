import math

import pytest
import torch
import torch.nn.functional as F

from mmat.attention import soft_target_loss
from mmat.errors import UserError

FORMS = ['batchmean', 'pre2018']

# Softened predictions (1, 2, 5) / 8 and (1, 1, 1) / 3 of the student, (2, 1, 1) / 4 and (1, 2, 1) / 4 of the teacher.
# Their KL: log(4) / 2 + log(2 / 5) / 4 = 0.464074 and log(3 / 4) / 2 + log(3 / 2) / 2 = 0.058892.
STUDENT, TEACHER = [[1, 2, 5], [1, 1, 1]], [[2, 1, 1], [1, 2, 1]]
KL_SUM = math.log(4) / 2 + math.log(2 / 5) / 4 + math.log(3 / 4) / 2 + math.log(3 / 2) / 2


def logits(ratios, T):
    """Logits whose softmax at temperature T is in these ratios; each row shifted, which changes nothing."""
    rows = [[T * math.log(ratio) + 7 * n - 3 for ratio in row] for n, row in enumerate(ratios)]
    return torch.tensor(rows, dtype=torch.float64)


def random_logits(n=5, classes=10, scale=3., dtype=torch.float64):
    torch.manual_seed(0)
    return scale * torch.randn(2, n, classes, dtype=dtype)


def todays_kd(s, t, T):
    p, q = (t / T).softmax(1), (s / T).softmax(1)
    return T**2 * (p * (p / q).log()).sum(1).mean()


def kd_until_july_2018(y, teacher_scores, T):
    # The default of that time's PyTorch, size_average=True, averaged over all elements.
    divergence = F.kl_div(F.log_softmax(y / T, dim=1), F.softmax(teacher_scores / T, dim=1), reduction='none')
    return divergence.mean() * (2 * T * T)


ORACLES = dict(batchmean=todays_kd, pre2018=kd_until_july_2018)


@pytest.mark.parametrize('form, T, expected', [
    # KL_SUM = 0.5229660154, by T^2 / 2 samples
    ('batchmean', 1, 0.26148300770979915),
    ('batchmean', 4, 4.183728123356786),
    ('batchmean', 0.5, 0.06537075192744979),
    # by 2 T^2 / (2 samples * 3 classes)
    ('pre2018', 1, 0.1743220051398661),
    ('pre2018', 4, 2.789152082237857),
    ('pre2018', 0.5, 0.04358050128496652),
])
def test_golden_values(form, T, expected):
    assert expected == pytest.approx(KL_SUM * T**2 * (1 / 2 if form == 'batchmean' else 2 / 6), rel=1e-12)
    result = soft_target_loss(logits(STUDENT, T), logits(TEACHER, T), T, form)
    assert result.shape == () and result.dtype == torch.float64
    assert result.item() == pytest.approx(expected, rel=1e-12)


def test_defaults_are_todays_form_at_4():
    student, teacher = logits(STUDENT, 4), logits(TEACHER, 4)
    assert soft_target_loss(student, teacher).item() == pytest.approx(8 * KL_SUM, rel=1e-12)


@pytest.mark.parametrize('n, classes', [(5, 10), (1, 100), (128, 2)])
@pytest.mark.parametrize('T', [0.5, 1, 4, 20])
@pytest.mark.parametrize('form', FORMS)
def test_equals_plain_pytorch(form, T, n, classes):
    student, teacher = random_logits(n, classes)
    student.requires_grad_()
    result, expected = soft_target_loss(student, teacher, T, form), ORACLES[form](student, teacher, T)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-14)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (result, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize('n', [1, 7])
@pytest.mark.parametrize('classes', [2, 10, 100])
@pytest.mark.parametrize('T', [1, 4])
def test_the_old_form_is_2_by_classes_of_todays(T, classes, n):
    student, teacher = random_logits(n, classes)
    old, today = soft_target_loss(student, teacher, T, 'pre2018'), soft_target_loss(student, teacher, T, 'batchmean')
    assert (old / today).item() == pytest.approx(2 / classes, rel=1e-12)


@pytest.mark.parametrize('form', FORMS)
def test_divergence_is_of_the_student_from_the_teacher(form):
    # KL is not symmetric: a class predicted by the student alone costs less than one that it misses.
    sure, unsure = logits([[98, 1, 1]], 1), logits([[1, 1, 1]], 1)
    misses, believes = soft_target_loss(sure, unsure, 1, form), soft_target_loss(unsure, sure, 1, form)
    scale = 1 if form == 'batchmean' else 2 / 3
    assert misses.item() == pytest.approx(scale * math.log(1e6 / 98 / 27) / 3, rel=1e-10)
    assert believes.item() == pytest.approx(scale * (0.98 * math.log(2.94) + 0.02 * math.log(0.03)), rel=1e-10)


@pytest.mark.parametrize('T', [0.5, 1, 4])
@pytest.mark.parametrize('form, scale', [('batchmean', 1), ('pre2018', 2 / 10)])
def test_gradient_is_T_times_the_difference_of_predictions(form, scale, T):
    student, teacher = random_logits(n=6)
    student.requires_grad_()
    soft_target_loss(student, teacher, T, form).backward()
    expected = scale * T * ((student.detach() / T).softmax(1) - (teacher / T).softmax(1)) / 6
    torch.testing.assert_close(student.grad, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize('T', [0.5, 4])
@pytest.mark.parametrize('form', FORMS)
def test_gradcheck(form, T):
    student, teacher = random_logits(n=3, classes=4, scale=1.)
    assert torch.autograd.gradcheck(lambda x: soft_target_loss(x, teacher, T, form), student.requires_grad_())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('form', FORMS)
def test_equal_logits_have_loss_and_gradient_zero(form, dtype):
    student, teacher = random_logits(dtype=dtype)[0].requires_grad_(), random_logits(dtype=dtype)[0]
    loss = soft_target_loss(student, teacher, form=form)
    loss.backward()
    assert loss.item() == 0
    # The rounding of log_softmax; the terms of the gradient are about 0.1
    assert student.grad.abs().max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('form', FORMS)
def test_a_constant_added_to_a_row_changes_nothing(form, dtype):
    # Multiples of 1/4, so that float32 adds the constants without rounding.
    student, teacher = random_logits(dtype=dtype).mul(4).round() / 4
    shift = torch.tensor([[-1000.], [0.], [3.], [50.], [1000.]], dtype=dtype)
    expected = soft_target_loss(student, teacher, form=form)
    for s, t in ((shift, 0), (0, shift), (shift, -2 * shift)):
        result = soft_target_loss(student + s, teacher + t, form=form)
        torch.testing.assert_close(result, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)


@pytest.mark.parametrize('form', FORMS)
def test_autocast_does_not_lower_the_precision(form):
    student, teacher = random_logits(dtype=torch.float32)
    expected = ORACLES[form](student.double(), teacher.double(), 4)
    with torch.autocast('cpu', torch.bfloat16):
        result = soft_target_loss(student, teacher, form=form)
        double = soft_target_loss(student.double(), teacher.double(), form=form)
    assert result.dtype == torch.float32 and double.dtype == torch.float64
    torch.testing.assert_close(result.double(), expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(double, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize('student_dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('teacher_dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('form', FORMS)
def test_half_precision_logits_are_raised_to_float32(form, autocast, student_dtype, teacher_dtype):
    student, teacher = random_logits(dtype=torch.float32)
    student, teacher = student.to(student_dtype).requires_grad_(), teacher.to(teacher_dtype)
    expected = ORACLES[form](student.detach().double(), teacher.double(), 4)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        result = soft_target_loss(student, teacher, form=form)
    assert result.dtype == torch.float32
    # Half precision's own rounding would be off by 1e-3 and more.
    torch.testing.assert_close(result.detach().double(), expected, rtol=2e-6, atol=0)
    result.backward()
    assert student.grad.dtype == student_dtype


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('form, scale', [('batchmean', 1), ('pre2018', 2 / 3)])
def test_large_logits_are_finite(form, scale, dtype):
    # The student predicts class 0, the teacher class 1: p is exactly (0, 1, 0) and log q is (0, -15000, -30000).
    student = torch.tensor([[60000., 0., -60000.]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0., 60000., -60000.]], dtype=dtype)
    loss = soft_target_loss(student, teacher, 4, form)
    loss.backward()
    assert loss.item() == pytest.approx(scale * 16 * 15000, rel=1e-6)
    expected = torch.tensor([[4., -4., 0.]], dtype=torch.float64) * scale
    torch.testing.assert_close(student.grad.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize('options, message', [
    (dict(T=0), r'\bT\b.*> 0.*0'),
    (dict(T=-4), r'\bT\b.*> 0.*-4'),
    (dict(T=float('nan')), r'\bT\b.*> 0.*nan'),
    (dict(form='mean'), "form.*'batchmean', 'pre2018'.*'mean'"),
    (dict(form=None), 'form.*None'),
])
def test_refuses_unknown_options(options, message):
    with pytest.raises(UserError, match=message):
        soft_target_loss(torch.zeros(2, 3), torch.zeros(2, 3), **options)


@pytest.mark.parametrize('student, teacher', [
    ((4, 10), (4, 100)),
    ((4, 10), (3, 10)),
    # These would broadcast silently.
    ((4, 10), (1, 10)),
    ((4, 10), (4, 1)),
    ((4, 10), (10, )),
    # A softmax over dim 1 of these would not be one over classes.
    ((2, 10, 4), (2, 10, 4)),
    ((10, ), (10, )),
])
def test_refuses_wrong_shapes(student, teacher):
    with pytest.raises(UserError, match=r'\(N, classes\)') as error:
        soft_target_loss(torch.zeros(student), torch.zeros(teacher))
    assert f'{student} and {teacher}' in str(error.value)
