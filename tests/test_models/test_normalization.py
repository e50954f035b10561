import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models import ClsDataPreprocessor

from mmat.models import BatchPreprocessor
from mmat.models.normalization import InputAdapter, loaded_order, orders_differ

RGB_MEAN, RGB_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
BGR_MEAN, BGR_STD = RGB_MEAN[::-1], RGB_STD[::-1]


def cls(mean=(1., 2., 3.), std=(4., 5., 6.), **options):
    return ClsDataPreprocessor(mean=list(mean), std=list(std), **options)


def batch(mean=(1., 2., 3.), std=(4., 5., 6.), **options):
    return BatchPreprocessor(mean=list(mean), std=list(std), **options)


def raw(size=8):
    return dict(inputs=torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0)).byte())


@pytest.mark.parametrize('student, teacher, swaps', [
    # Files, BGR as mmcv reads them.
    (cls(to_rgb=True), cls(to_rgb=False), True),
    (cls(to_rgb=False), cls(to_rgb=True), True),
    (cls(to_rgb=True), cls(to_rgb=True), False),
    (cls(to_rgb=False), cls(to_rgb=False), False),
    (cls(RGB_MEAN, RGB_STD, to_rgb=True), cls(BGR_MEAN, BGR_STD), True),
    # In memory, RGB.
    (batch(), batch(), False),
    (batch(), cls(to_rgb=True), False),
    (batch(), cls(to_rgb=False), False),
    (batch(), cls(BGR_MEAN, BGR_STD), True),
    (batch(), cls([mean / 255 for mean in BGR_MEAN], [std / 255 for std in BGR_STD]), True),
    (cls(BGR_MEAN, BGR_STD), batch(), True),
    (nn.Identity(), cls(to_rgb=True), True),
])
def test_channel_orders(student, teacher, swaps):
    assert orders_differ(student, teacher) is orders_differ(teacher, student) is swaps
    assert InputAdapter(student, teacher).swaps_channels is swaps


@pytest.mark.parametrize('preprocessor, order', [
    (batch(), 'rgb'), (cls(to_rgb=True), 'bgr'), (cls(), None), (cls(BGR_MEAN, BGR_STD), 'bgr'), (nn.Identity(), None)])
def test_the_order_of_the_images_that_it_takes(preprocessor, order):
    assert loaded_order(preprocessor) == order


@pytest.mark.parametrize('student, teacher', [
    (dict(to_rgb=True), dict(to_rgb=False, mean=[9., 8., 7.], std=[2., 3., 4.])),
    (dict(to_rgb=False), dict(to_rgb=True, mean=[9., 8., 7.], std=[2., 3., 4.])),
    (dict(to_rgb=True), dict(to_rgb=True, mean=[9., 8., 7.], std=[2., 3., 4.])),
])
def test_images_are_those_of_the_teachers_own_preprocessor(student, teacher):
    student, teacher = cls(**student), cls(**teacher)
    images = student(copy.deepcopy(raw()), training=True)['inputs']
    expected = teacher(copy.deepcopy(raw()))['inputs']
    torch.testing.assert_close(InputAdapter(student, teacher)(images), expected, rtol=1e-5, atol=1e-4)


def test_mirrored_statistics_are_exact():
    student, teacher = cls(RGB_MEAN, RGB_STD, to_rgb=True), cls(BGR_MEAN, BGR_STD)
    images = student(copy.deepcopy(raw()), training=True)['inputs']
    assert InputAdapter(student, teacher)(images).equal(teacher(copy.deepcopy(raw()))['inputs'])


def test_images_are_resized_after_they_are_normalised():
    student, teacher = batch(), batch(mean=(7., 8., 9.))
    images = student(raw())['inputs']
    expected = F.interpolate(teacher(raw())['inputs'], (6, 20), mode='bilinear', antialias=True)
    torch.testing.assert_close(InputAdapter(student, teacher, (6, 20))(images), expected, rtol=1e-5, atol=1e-4)
    assert InputAdapter(student, student, (8, 8))(images) is images


def test_gradients_reach_the_images():
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    adapter = InputAdapter(cls(to_rgb=True), cls(mean=(5., 5., 5.), std=(1., 2., 3.)), (4, 4))
    assert torch.autograd.gradcheck(adapter, images)
