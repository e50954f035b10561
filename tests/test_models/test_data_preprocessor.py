import copy
import io
import random

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from torchvision.transforms import functional as TF

import mmat.models.data_preprocessor as module
from mmat.datasets import BatchedSamples
from mmat.errors import ConfigError, UserError
from mmat.models import BatchPreprocessor
from mmat.models.data_preprocessor import crop_and_flip
from mmat.registry import MODELS

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


def crop_and_flip_one(image, top, left, flip, padding):
    """One image, the way a data loader's worker would do it."""
    height, width = image.shape[1:]
    image = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode='reflect')
    image = image[:, top:top + height, left:left + width]
    return image[:, :, ::-1] if flip else image


def random_images(*shape, dtype=torch.uint8):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(5)).to(dtype)


def batch(count=6, size=8):
    return dict(inputs=random_images(count, 3, size, size), data_samples=BatchedSamples(torch.arange(count)))


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(module, 'get_dist_info', lambda: (rank, world_size))


# crop_and_flip

@pytest.mark.parametrize('height, width, padding', [(8, 8, 4), (5, 7, 3), (7, 5, 3), (6, 6, 5), (4, 4, 0), (9, 3, 1)])
@pytest.mark.parametrize('channels', [1, 3])
def test_crop_and_flip_equals_the_image_by_image_reference(height, width, padding, channels):
    # All windows, mirrored and not.
    windows = [(t, x, f) for t in range(2 * padding + 1) for x in range(2 * padding + 1) for f in (False, True)]
    images = random_images(len(windows), channels, height, width)
    tops, lefts, flips = map(torch.tensor, zip(*windows))
    result = crop_and_flip(images, tops, lefts, flips, padding)
    assert torch.equal(result, crop_and_flip(images, tops, lefts, flips, padding, channels_last=True))
    assert result.shape == images.shape
    for image, window, found in zip(images.numpy(), windows, result.numpy()):
        np.testing.assert_array_equal(found, crop_and_flip_one(image, *window, padding), err_msg=str(window))


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_crop_and_flip_keeps_the_dtype(dtype):
    images = random_images(2, 3, 4, 4, dtype=dtype)
    result = crop_and_flip(images, torch.tensor([2, 2]), torch.tensor([2, 2]), torch.tensor([False, True]), 2)
    assert result.dtype == dtype
    # The middle window is the image itself.
    assert torch.equal(result[0], images[0])
    assert torch.equal(result[1], images[1].flip(-1))


@pytest.mark.parametrize('given', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('channels_last', [False, True])
def test_crop_and_flip_gives_the_layout_asked_for_and_leaves_its_input(channels_last, given):
    images = random_images(2, 3, 4, 5).contiguous(memory_format=given)
    before = images.clone()
    ones = torch.ones(2, dtype=torch.int64)
    result = crop_and_flip(images, ones, ones, torch.zeros(2, dtype=torch.bool), 1, channels_last=channels_last)
    assert result.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(images, before) and torch.equal(result, before)


def black_crop_and_flip(image, top, left, flip, padding):
    """One image, by torchvision: its RandomCrop pads with zeros, crops, and its flip comes after."""
    image = TF.crop(TF.pad(image, [padding] * 4), top, left, *image.shape[-2:])
    return TF.hflip(image) if flip else image


@pytest.mark.parametrize('height, width, padding', [(8, 8, 4), (5, 7, 3), (7, 5, 3), (6, 6, 5), (4, 4, 0), (9, 3, 1)])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_constant_padding_is_torchvisions(height, width, padding, dtype):
    windows = [(t, x, f) for t in range(2 * padding + 1) for x in range(2 * padding + 1) for f in (False, True)]
    # No black pixels, so that only the padding is black.
    images = random_images(len(windows), 3, height, width).clamp(min=1).to(dtype)
    before = images.clone()
    result = crop_and_flip(images, *map(torch.tensor, zip(*windows)), padding, 'constant')
    assert result.dtype == dtype
    assert torch.equal(
        result, crop_and_flip(images, *map(torch.tensor, zip(*windows)), padding, 'constant', channels_last=True))
    assert torch.equal(images, before)
    for image, window, found in zip(images, windows, result):
        assert torch.equal(found, black_crop_and_flip(image, *window, padding)), window


def test_reflection_is_the_default():
    windows = torch.tensor([0, 4]), torch.tensor([4, 1]), torch.tensor([False, True])
    images = random_images(2, 3, 8, 8).clamp(min=1)
    default = crop_and_flip(images, *windows, 2)
    assert torch.equal(default, crop_and_flip(images, *windows, 2, 'reflect')) and default.min() > 0
    results = []
    for options in ({}, dict(padding_mode='reflect'), dict(padding_mode='constant')):
        torch.manual_seed(0)
        results.append(BatchPreprocessor(padding=2, flip_prob=0.5, **options)(batch(), training=True)['inputs'])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


# Random draws

def test_draws_cover_all_windows_evenly():
    torch.manual_seed(0)
    tops, lefts, flips = BatchPreprocessor(padding=4, flip_prob=0.25).draw(81 * 400)
    windows = torch.bincount(tops * 9 + lefts, minlength=81)
    assert len(windows) == 81
    # 400 expected of each, standard deviation 20: tops and lefts are uniform, and independent of each other.
    assert windows.min() > 300 and windows.max() < 500
    assert flips.dtype == torch.bool
    # Standard deviation 0.0024.
    assert abs(flips.float().mean().item() - 0.25) < 0.012
    assert abs(flips[tops == 0].float().mean().item() - 0.25) < 0.036


@pytest.mark.parametrize('flip_prob, expected', [(0, False), (1, True)])
def test_flip_never_and_always(flip_prob, expected):
    flips = BatchPreprocessor(flip_prob=flip_prob).draw(2000)[2]
    assert (flips == expected).all()


@pytest.mark.parametrize('world_size', [2, 3])
def test_processes_share_the_draws_of_one(monkeypatch, world_size):
    preprocessor = BatchPreprocessor(padding=4, flip_prob=0.5)
    torch.manual_seed(3)
    whole = preprocessor.draw(12)
    following = torch.rand(4)
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        torch.manual_seed(3)
        for share, all_of_them in zip(preprocessor.draw(12 // world_size), whole):
            assert share.tolist() == [all_of_them[i].item() for i in range(rank, 12, world_size)]
        # The random stream advances as in one process.
        assert torch.equal(torch.rand(4), following)


def test_two_processes_at_half_batch_get_the_images_of_one(monkeypatch):
    preprocessor = BatchPreprocessor(MEAN, STD, padding=2, flip_prob=0.5)
    images = batch()['inputs']
    torch.manual_seed(3)
    whole = preprocessor(dict(inputs=images), training=True)['inputs']
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        torch.manual_seed(3)
        half = preprocessor(dict(inputs=images[rank::2]), training=True)['inputs']
        assert torch.equal(half, whole[rank::2])


def test_same_seed_same_batch():
    preprocessor = BatchPreprocessor(padding=2, flip_prob=0.5)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append([preprocessor(batch(), training=True)['inputs'] for _ in range(2)])
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    # Another seed, and the next batch of the same seed, differ.
    assert not torch.equal(results[0][0], results[2][0])
    assert not torch.equal(results[0][0], results[0][1])


# The whole preprocessor

@pytest.mark.parametrize('padding, flip_prob', [(2, 0.5), (2, 0), (0, 0.5), (2, 1)])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_training_images_are_windows_of_the_padded_ones_normalised(padding, flip_prob, dtype):
    torch.manual_seed(0)
    images = random_images(16, 3, 8, 8, dtype=dtype)
    result = BatchPreprocessor(MEAN, STD, padding, flip_prob)(dict(inputs=images), training=True)['inputs']
    assert result.dtype == torch.float32
    # Without normalisation, in float64, pixels are integers again.
    std, mean = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (STD, MEAN))
    pixels = result.double() * std + mean
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-4)
    seen = set()
    for image, found in zip(images.numpy(), pixels.round().numpy()):
        matches = [(top, left, flip) for top in range(2 * padding + 1) for left in range(2 * padding + 1)
                   for flip in (False, True)
                   if np.array_equal(found, crop_and_flip_one(image, top, left, flip, padding))]
        assert len(matches) == 1
        seen.update(matches)
    assert {flip for _, _, flip in seen} == {0: {False}, 0.5: {False, True}, 1: {True}}[flip_prob]
    assert len(seen) > 2 or not padding


@pytest.mark.parametrize('padding, flip_prob', [(2, 0.5), (3, 0), (2, 1)])
def test_constant_padding_is_black_before_the_normalisation(padding, flip_prob):
    preprocessor = BatchPreprocessor(MEAN, STD, padding, flip_prob, padding_mode='constant')
    images = random_images(16, 3, 8, 8).clamp(min=1)
    torch.manual_seed(0)
    windows = list(zip(*(draw.tolist() for draw in preprocessor.draw(16))))
    torch.manual_seed(0)
    result = preprocessor(dict(inputs=images), training=True)['inputs']
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    for image, window, found in zip(images, windows, result):
        expected = (black_crop_and_flip(image, *window, padding).float() - mean) / std
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert {flip for *_, flip in windows} == {0: {False}, 0.5: {False, True}, 1: {True}}[flip_prob]
    # Evaluation does not pad.
    plain = BatchPreprocessor(MEAN, STD)(dict(inputs=images))['inputs']
    assert torch.equal(preprocessor(dict(inputs=images))['inputs'], plain)


@pytest.mark.parametrize('training', [False, True])
def test_normalisation(training):
    # (x - mean) / std by hand, channel by channel.
    images = torch.tensor([255, 0, 124], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    result = BatchPreprocessor(mean=(5, 10, 100), std=(50, 20, 8))(dict(inputs=images), training)['inputs']
    expected = torch.tensor([5., -0.5, 3.]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert torch.equal(result, expected)


def test_without_mean_and_std_pixels_stay():
    images = random_images(2, 3, 4, 4)
    result = BatchPreprocessor()(dict(inputs=images), training=True)['inputs']
    assert result.dtype == torch.float32 and torch.equal(result, images.float())


def test_evaluation_has_no_augmentation_and_draws_nothing():
    preprocessor = BatchPreprocessor(
        padding=2, flip_prob=1, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)), num_classes=6)
    data = batch()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    result = preprocessor(data, training=False)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(result['inputs'], data['inputs'].float())
    assert torch.equal(result['data_samples'].gt_label, torch.arange(6))


def test_training_is_off_by_default():
    data = batch()
    assert torch.equal(BatchPreprocessor(flip_prob=1)(data)['inputs'], data['inputs'].float())


@pytest.mark.parametrize('padding', [0, 2])
@pytest.mark.parametrize('training', [False, True])
def test_memory_layout(padding, training):
    data = batch()
    default = BatchPreprocessor(MEAN, STD, padding)(data, training)['inputs']
    assert default.is_contiguous()
    torch.manual_seed(0)
    last = BatchPreprocessor(MEAN, STD, padding, channels_last=True)(data, training)['inputs']
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_the_layout_changes_no_value():
    results = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        preprocessor = BatchPreprocessor(MEAN, STD, 2, 0.5, channels_last=channels_last)
        results.append(preprocessor(batch(), training=True)['inputs'])
    assert torch.equal(*results)


def test_the_input_batch_is_not_modified():
    data = batch()
    inputs, samples, before = data['inputs'], data['data_samples'], data['inputs'].clone()
    BatchPreprocessor(MEAN, STD, padding=2, flip_prob=1)(data, training=True)
    assert data['inputs'] is inputs and data['data_samples'] is samples
    assert torch.equal(inputs, before)


@pytest.mark.parametrize('kind', [list, tuple])
def test_a_list_of_images_and_samples_is_stacked(kind):
    images = random_images(3, 3, 4, 4)
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    result = BatchPreprocessor(MEAN, STD)(dict(inputs=kind(images), data_samples=samples))
    expected = BatchPreprocessor(MEAN, STD)(dict(inputs=images))['inputs']
    assert torch.equal(result['inputs'], expected)
    assert [sample.gt_label.item() for sample in result['data_samples']] == [0, 1, 2]


@pytest.mark.parametrize('data_samples', [{}, dict(data_samples=None)])
def test_images_without_labels(data_samples):
    result = BatchPreprocessor(padding=2)(dict(inputs=random_images(2, 3, 4, 4), **data_samples), training=True)
    assert result['inputs'].shape == (2, 3, 4, 4)
    assert result.get('data_samples') is None


def test_the_state_dict_is_empty():
    assert BatchPreprocessor(MEAN, STD).state_dict() == {}


def test_statistics_follow_the_module():
    preprocessor = BatchPreprocessor(MEAN, STD).to('meta')
    result = preprocessor(dict(inputs=random_images(2, 3, 4, 4), data_samples=BatchedSamples(torch.arange(2))))
    assert result['inputs'].device.type == 'meta'
    assert result['data_samples'].gt_label.device.type == 'meta'


@pytest.mark.parametrize('samples', [
    BatchedSamples(torch.arange(8), list(range(8))),
    [DataSample().set_gt_label(i) for i in range(8)],
])
def test_mixup_mixes_images_and_labels_alike(samples):
    torch.manual_seed(0)
    np.random.seed(0)
    preprocessor = BatchPreprocessor(
        batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)), num_classes=8)
    # Image i is 10 i everywhere and has label i, so a mixed image shows the expected scores.
    images = (10 * torch.arange(8)).view(8, 1, 1, 1).expand(8, 3, 4, 4).to(torch.uint8)
    result = preprocessor(dict(inputs=images, data_samples=samples), training=True)
    scores = torch.stack([sample.gt_score for sample in result['data_samples']])
    torch.testing.assert_close(scores.sum(1), torch.ones(8))
    expected = (scores @ (10 * torch.arange(8.))).view(8, 1, 1, 1).expand(8, 3, 4, 4)
    torch.testing.assert_close(result['inputs'], expected)
    assert (scores > 0).sum(1).max() == 2
    assert [sample.gt_label.item() for sample in result['data_samples']] == list(range(8))


def test_image_classifier_passes_on_its_batch_augments():
    model = MODELS.build(dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmat.WideResNet', depth=10),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmat.LinearClsHead', num_classes=6, in_channels=64),
        train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)),
        data_preprocessor=dict(type='mmat.BatchPreprocessor', mean=MEAN, std=STD, padding=2, num_classes=6)))
    data = model.data_preprocessor(batch(), training=True)
    assert data['data_samples'][0].gt_score.shape == (6, )
    assert model(**data, mode='loss')['loss'].isfinite()


@pytest.mark.parametrize('options, message', [
    (dict(mean=MEAN), r'mean and std.*125\.3.*None'),
    (dict(std=STD), r'mean and std.*None.*66\.7'),
    (dict(mean=MEAN, std=(1., )), r'mean and std.*125\.3.*\(1\.0,\)'),
    (dict(padding=-1), r'padding.*\b0\b.*-1'),
    (dict(flip_prob=1.5), r'flip_prob.*0.*1.*1\.5'),
    (dict(flip_prob=-0.1), r'flip_prob.*0.*1.*-0\.1'),
    (dict(batch_augments=dict(augments=dict(type='Mixup', alpha=1.0))), 'batch_augments.*num_classes'),
    (dict(padding_mode='zeros'), "padding_mode.*'reflect'.*'constant'.*'zeros'"),
    (dict(padding=4, padding_mode=None), "padding_mode.*'reflect'.*'constant'.*None"),
])
def test_refuses_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        BatchPreprocessor(**options)


@pytest.mark.parametrize('size', [(4, 8), (8, 4), (3, 3)])
@pytest.mark.parametrize('mode', ['reflect', 'constant'])
def test_refuses_images_not_larger_than_the_padding(size, mode):
    preprocessor = BatchPreprocessor(padding=4, padding_mode=mode)
    images = torch.zeros(1, 3, *size, dtype=torch.uint8)
    with pytest.raises(UserError, match=rf'{mode}.*\b4\b.*\({size[0]}, {size[1]}\)'):
        preprocessor(dict(inputs=images), training=True)
    # Evaluation does not pad.
    assert preprocessor(dict(inputs=images))['inputs'].shape == images.shape


# With a seed

def mixing(**kwargs):
    return BatchPreprocessor(MEAN, STD, padding=3, flip_prob=0.5, num_classes=6, batch_augments=dict(
        augments=[dict(type='mmpretrain.Mixup', alpha=1.), dict(type='mmpretrain.CutMix', alpha=1.)]), **kwargs)


def draw_from_all():
    return random.random(), np.random.rand(), torch.rand(2).tolist()


def training_images(preprocessor, count=4, disturb=lambda: None):
    seen = []
    for _ in range(count):
        disturb()
        seen.append(preprocessor(batch(), training=True)['inputs'])
    return torch.stack(seen)


@pytest.mark.parametrize('make', [lambda **kwargs: BatchPreprocessor(padding=3, flip_prob=0.5, **kwargs), mixing])
def test_with_a_seed_batches_are_independent_of_the_global_random_state(make):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    undisturbed = [draw_from_all(), draw_from_all()]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    first = make(seed=3)
    drawn = [draw_from_all()]
    seen = training_images(first)
    assert [*drawn, draw_from_all()] == undisturbed
    assert torch.equal(training_images(make(seed=3), disturb=draw_from_all), seen)
    assert not torch.equal(training_images(make(seed=4)), seen)
    # Batches differ from each other.
    assert not torch.equal(seen[0], seen[1])


def test_a_seed_gives_other_numbers_than_the_global_generator():
    preprocessor = BatchPreprocessor(padding=3, seed=5)
    torch.manual_seed(5)
    assert not torch.equal(preprocessor.draw(50)[0], BatchPreprocessor(padding=3).draw(50)[0])


def test_without_a_seed_the_draws_are_the_global_ones():
    torch.manual_seed(5)
    tops, lefts, flips = BatchPreprocessor(padding=3, flip_prob=0.5).draw(6)
    torch.manual_seed(5)
    corners = torch.randint(0, 7, (6, 2))
    assert torch.equal(tops, corners[:, 0]) and torch.equal(lefts, corners[:, 1])
    assert torch.equal(flips, torch.rand(6) < 0.5)


def test_the_position_in_the_stream_is_saved_and_restored():
    preprocessor = mixing(seed=3)
    training_images(preprocessor, 2)
    # Through a file.
    file = io.BytesIO()
    torch.save(preprocessor.random.state_dict(), file)
    file.seek(0)
    expected = training_images(copy.deepcopy(preprocessor))
    other = mixing(seed=4)
    other.random.load_state_dict(torch.load(file))
    assert torch.equal(training_images(other), expected) and torch.equal(training_images(preprocessor), expected)


@pytest.mark.parametrize('seed', [-1, 1.5, '3', True])
def test_refuses_wrong_seeds(seed):
    with pytest.raises(ConfigError, match=f'seed.*0.*{seed!r}'):
        BatchPreprocessor(seed=seed)
