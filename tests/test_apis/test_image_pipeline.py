import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from PIL import Image

from mmat.apis.image_pipeline import build_image_pipeline
from mmat.datasets import CIFAR10, Digits, InMemoryDataset
from mmat.errors import ConfigError
from mmat.registry import DATASETS

LOAD, PACK = dict(type='mmpretrain.LoadImageFromFile'), dict(type='mmpretrain.PackInputs')
NOISE = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)


@DATASETS.register_module(force=True)
class Sizeless(InMemoryDataset):
    """Does not define its image size."""


def pipeline(loader='test_dataloader', **dataset):
    return build_image_pipeline(Config({loader: dict(dataset=dataset)}))


# Images held in memory

@pytest.mark.parametrize('dataset, size', [
    (dict(type='mmat.CIFAR10', data_root='nowhere', split='test'), 32),
    (dict(type='mmat.CIFAR100', data_root='nowhere', split='test'), 32),
    (dict(type='mmat.Digits', split='test', indices=5), 16),
    (dict(type='mmat.Digits', split='test', size=24), 24),
    # mmpretrain's have a pipeline that loads nothing.
    (dict(type='CIFAR10', pipeline=[PACK]), 32),
    (dict(type='mmpretrain.CIFAR100', pipeline=[PACK]), 32),
])
def test_a_picture_gets_the_size_of_the_dataset(dataset, size):
    prepare, is_bgr = pipeline(**dataset)
    prepared = prepare(NOISE)
    assert prepared['inputs'].shape == (3, size, size) and prepared['inputs'].dtype == torch.uint8
    assert isinstance(prepared['data_samples'], DataSample) and not is_bgr


@pytest.mark.parametrize('scope', ['mmengine', 'mmat'])
@pytest.mark.parametrize('dataset', [
    dict(type='mmat.CIFAR10'), dict(type='CustomDataset', pipeline=[dict(type='CenterCrop', crop_size=4), PACK])])
def test_under_any_scope(dataset, scope):
    config = Config(dict(test_dataloader=dict(dataset=dataset), default_scope='mmpretrain'))
    with DefaultScope.overwrite_default_scope(scope):
        prepare, _ = build_image_pipeline(config)
        assert prepare(NOISE)['inputs'].shape[0] == 3


def test_they_are_rgb():
    red = np.zeros((40, 50, 3), np.uint8)
    red[..., 2] = 255
    for dataset in (dict(type='mmat.CIFAR10'), dict(type='mmpretrain.CIFAR10', pipeline=[PACK])):
        inputs = pipeline(**dataset)[0](red)['inputs']
        assert (inputs == torch.tensor([255, 0, 0]).view(3, 1, 1)).all()
    # Grey as ITU-R 601 weighs red: 0.299 of 255.
    assert (pipeline(type='mmat.Digits')[0](red)['inputs'] == 76).all()
    inputs = pipeline(type='mmpretrain.MNIST', pipeline=[PACK])[0](red)['inputs']
    assert inputs.shape == (1, 28, 28) and (inputs == 76).all()


def test_an_image_of_the_dataset_stays_as_it_is():
    digits = Digits('test', indices=3)
    prepare, _ = pipeline(type='mmat.Digits', split='test')
    for image in digits.images:
        assert torch.equal(prepare(image.permute(1, 2, 0).numpy())['inputs'], image)
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    inputs = pipeline(type='mmat.CIFAR10')[0](colours)['inputs']
    assert torch.equal(inputs, torch.from_numpy(colours).permute(2, 0, 1).flip(0))


def test_a_digit_is_enlarged_as_the_dataset_enlarges_it():
    from sklearn.datasets import load_digits
    small = Digits('test', size=8, indices=4).images
    assert small.max() == 255 and len(load_digits().images) == 1797
    prepare, _ = pipeline(type='mmat.Digits', split='test', size=16)
    for image, expected in zip(small, Digits('test', size=16, indices=4).images):
        found = prepare(image.permute(1, 2, 0).numpy())['inputs']
        # Each rounds to whole numbers.
        assert (found.int() - expected.int()).abs().max() <= 1


def test_it_is_made_smaller_without_aliasing():
    checks = np.indices((128, 128)).sum(0) % 2 * 255
    inputs = pipeline(type='mmat.CIFAR10')[0](np.repeat(checks[..., None], 3, 2).astype(np.uint8))['inputs']
    assert ((inputs.float() - 127.5).abs() < 10).all()


def test_class_names_are_the_official_ones():
    assert CIFAR10.METAINFO['classes'] == (
        'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
    assert Digits.METAINFO['classes'] == Digits('test', indices=1).metainfo['classes'] == tuple('0123456789')


# Images from files

@pytest.mark.parametrize('load', [LOAD, dict(type='LoadImageFromFile', color_type='color'),
                                  dict(type='mmat.LoadImage')])
def test_a_pipeline_without_loading_and_boxes(load):
    steps = [load, dict(type='mmat.CropBoundingBox', margin=0.1),
             dict(type='mmpretrain.ResizeEdge', scale=20, edge='short'),
             dict(type='mmpretrain.CenterCrop', crop_size=(20, 20)), PACK]
    prepare, is_bgr = pipeline(type='mmpretrain.CustomDataset', pipeline=steps)
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20, 0] = 255  # the middle third, blue
    inputs = prepare(image)['inputs']
    assert is_bgr and inputs.shape == (3, 20, 20)
    assert (inputs[0, :, 1:-1] == 255).all() and (inputs[1:] == 0).all()
    assert prepare(image)['data_samples'].ori_shape == (10, 30)


def test_a_dataset_inside_another_and_a_validation_set():
    inner = dict(type='mmpretrain.CustomDataset', pipeline=[LOAD, dict(type='mmpretrain.Resize', scale=(6, 4)), PACK])
    prepare, _ = pipeline('val_dataloader', type='RepeatDataset', times=2, dataset=inner)
    assert prepare(NOISE)['inputs'].shape == (3, 4, 6)
    prepare, _ = pipeline(type='ConcatDataset', datasets=[inner, inner])
    assert prepare(NOISE)['inputs'].shape == (3, 4, 6)
    prepare, _ = pipeline(type='ConcatDataset', datasets=[dict(type='mmat.Digits', split='test')])
    assert prepare(NOISE)['inputs'].shape == (3, 16, 16)


@pytest.mark.parametrize('config, found', [
    ({}, 'no dataset'),
    (dict(test_dataloader=None), 'no dataset'),
    (dict(test_dataloader=dict(dataset=dict(type='mmpretrain.ImageNet'))), 'ImageNet'),
    (dict(test_dataloader=dict(dataset=dict(type='mmat.Sizeless'))), 'Sizeless'),
])
def test_a_config_without_a_pipeline_or_image_size(config, found):
    with pytest.raises(ConfigError, match=rf'test_dataloader.*image_size.* {found}\.'):
        build_image_pipeline(Config(config))


def test_pillow_and_the_pipeline_agree_on_what_is_left(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / 'a.png')
    loaded = pipeline(type='mmpretrain.CustomDataset', pipeline=[LOAD, PACK])[0]
    from mmcv import imread
    assert torch.equal(loaded(imread(str(tmp_path / 'a.png')))['inputs'],
                       torch.from_numpy(NOISE).permute(2, 0, 1).flip(0))
