import builtins

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mmat.datasets import Digits
from mmat.errors import ConfigError, MissingPackageError
from mmat.registry import DATASETS

# The 1,797 images by class, as the UCI repository documents them.
CLASS_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_train_and_test_are_disjoint_and_complete():
    train, test = Digits('train', size=8), Digits('test', size=8)
    assert len(train) == 1000 and len(test) == 797
    digits = load_digits()
    # At the original size images are only rescaled, from 0..16 to 0..255.
    pixels = np.rint(digits.images.reshape(-1, 64) * 255 / 16).astype(int)
    expected = sorted((*image, label) for image, label in zip(pixels.tolist(), digits.target.tolist()))
    found = sorted((*image.tolist(), label.item()) for data in (train, test)
                   for image, label in zip(data.images[:, 0].flatten(1), data.labels))
    assert found == expected


@pytest.mark.parametrize('train_size', [10, 100, 250, 1000])
def test_training_classes_are_balanced(train_size):
    counts = torch.bincount(Digits('train', train_size).labels, minlength=10)
    assert counts.tolist() == [train_size // 10] * 10


def test_class_counts_differ_by_at_most_one():
    counts = torch.bincount(Digits('train', 57).labels, minlength=10)
    assert sorted(counts.tolist()) == [5] * 3 + [6] * 7


def test_classes_of_the_test_split():
    counts = torch.bincount(Digits('test').labels, minlength=10)
    assert counts.tolist() == [count - 100 for count in CLASS_COUNTS]


def test_a_smaller_training_set_is_a_prefix_of_a_larger_one():
    small, large = Digits('train', 30), Digits('train', 500)
    assert torch.equal(small.images, large.images[:30])
    assert torch.equal(small.labels, large.labels[:30])


def test_the_split_is_fixed_and_does_not_change_the_rng_state():
    splits = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        splits.append(Digits('train', 40))
        after = torch.rand(2), np.random.rand()
        torch.manual_seed(seed)
        np.random.seed(seed)
        assert torch.equal(after[0], torch.rand(2)) and after[1] == np.random.rand()
    assert torch.equal(splits[0].images, splits[1].images)
    assert torch.equal(splits[0].labels, splits[1].labels)


def test_images_are_shuffled():
    # Every ten images hold each class once, in varying order.
    labels = Digits('train', 100).labels.view(10, 10)
    assert all(sorted(row.tolist()) == list(range(10)) for row in labels)
    assert len({tuple(row.tolist()) for row in labels}) > 5


def enlarge(image, size):
    """Bilinear, pixel centres aligned, edges repeated."""
    scale = len(image) / size
    at = np.clip((np.arange(size) + 0.5) * scale - 0.5, 0, len(image) - 1)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, len(image) - 1), at - low
    rows = image[low] * (1 - part)[:, None] + image[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


@pytest.mark.parametrize('size', [8, 16, 20])
def test_images_are_enlarged_bilinearly_in_three_equal_channels(size):
    originals = Digits('train', 5, size=8).images[:, 0].double().numpy()
    data = Digits('train', 5, size=size)
    assert data.images.dtype == torch.uint8 and data.images.shape == (5, 3, size, size)
    assert torch.equal(data.images[:, 0], data.images[:, 1]) and torch.equal(data.images[:, 0], data.images[:, 2])
    for image, original in zip(data.images[:, 0].double().numpy(), originals):
        # The original and the enlarged image are rounded to integers, by at most 0.5 each.
        np.testing.assert_allclose(image, enlarge(original, size), rtol=0, atol=1.001)


def test_values_span_the_range():
    images = Digits('train', size=8).images
    assert images.min() == 0 and images.max() == 255


def test_size_is_16_by_default():
    assert Digits('test').images.shape == (797, 3, 16, 16)


def test_classes_and_indices():
    data = Digits('test', indices=[3, 1])
    whole = Digits('test')
    assert data.metainfo['classes'] == ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    assert torch.equal(data.images, whole.images[[3, 1]]) and torch.equal(data.labels, whole.labels[[3, 1]])
    assert data.labels.dtype == torch.int64


def test_builds_from_a_config():
    data = DATASETS.build(dict(type='mmat.Digits', split='train', train_size=20))
    assert isinstance(data, Digits) and len(data) == 20


@pytest.mark.parametrize('options, parts', [
    (dict(split='val'), ('split', "'train'", "'test'", "'val'")),
    (dict(split='train', train_size=0), ('train_size', '1000', ' 0.')),
    (dict(split='train', train_size=1001), ('train_size', '1000', '1001')),
    (dict(split='train', size=7), ('`size`', '8', '7')),
    (dict(split='train', train_size=10, indices=[10]), ('indices', '10 images', '[10]')),
])
def test_refuses_wrong_options(options, parts):
    with pytest.raises(ConfigError) as error:
        Digits(**options)
    for part in parts:
        assert part in str(error.value)


def test_the_error_without_scikit_learn_names_the_package(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith('sklearn'):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(MissingPackageError, match='pip install scikit-learn'):
        Digits('train')
