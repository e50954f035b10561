"""Missing requirements are reported before anything runs, exactly and once."""
import builtins
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from test_datasets.test_cub import folder as birds  # noqa: F401
from test_datasets.test_indoor_scenes import folder as rooms  # noqa: F401
from torch.utils.data import Dataset
from zoo_table import CONFIGS, ROOT

from mmat.errors import UserError
from mmat.registry import DATASETS
from mmat.reproduce.recipe import plan, read_recipe, training_order
from mmat.reproduce.requirements import missing_requirements, pending_downloads
from mmat.reproduce.run import Run

CIFAR10_FILES = [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch', 'batches.meta']
IMAGENET_URL = 'https://www.image-net.org/download.php'


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """Make an empty ``data`` in the current folder, and an empty cache of weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    (tmp_path / 'data').mkdir()
    return tmp_path / 'data'


def a_run(config, seed=0, teacher=None, **options):
    return Run(Path('work') / Path(config).stem / f'seed{seed}', str(config), seed, 1, options, teacher)


def needs(config, **options):
    """Return the missing requirements of one run, without the configs that need them."""
    name = Path(config).stem
    messages = missing_requirements([a_run(config, **options)])
    assert all(message.endswith(f'. Needed by {name}') for message in messages)
    return [message[:-len(f'. Needed by {name}')] for message in messages]


def assert_names(messages, *parts):
    """Check that each message contains its parts, and that there are no others."""
    assert len(messages) == len(parts), messages
    for message, each in zip(messages, parts):
        for part in each:
            assert part in message


def finish(run):
    run.work_dir.mkdir(parents=True)
    (run.work_dir / 'result.json').write_text('{"epochs": 1}')


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('not read')


@pytest.fixture
def write_config(tmp_path):
    """Write a config based on the digits'; return its name."""

    def write(name='own.py', **settings):
        settings = dict(_base_=str(CONFIGS['wrn16-1_1xb10_digits']), **settings)
        (tmp_path / name).write_text(''.join(f'{key} = {value!r}\n' for key, value in settings.items()))
        return name

    return write


def replaced(**dataset):
    return dict(train_dataloader=dict(dataset=dict(_delete_=True, **dataset)))


# CIFAR

@pytest.mark.parametrize('number, folder', [('10', 'cifar-10-batches-py'), ('100', 'cifar-100-python')])
@pytest.mark.parametrize('there', [[], ['data/cifar{}/readme.html']])
def test_no_cifar(tmp_path, number, folder, there):
    touch(tmp_path, *(name.format(number) for name in there))
    archive = f'cifar-{number}-python.tar.gz'
    # Once for the training and the test split.
    assert_names(
        needs({'10': 'wrn16-1_1xb128_cifar10', '100': 'vgg_1xb128_cifar100'}[number]),
        (f'CIFAR{number} ', f"'{tmp_path}/data/cifar{number}'", f'{folder}/', f' {archive}', 'download=True',
         f'https://www.cs.toronto.edu/~kriz/{archive}', 'data_root'))


@pytest.mark.parametrize('files', [
    ['cifar-10-python.tar.gz'], [f'cifar-10-batches-py/{name}' for name in CIFAR10_FILES],
])
def test_cifar_is_found_without_reading_it(data, files):
    touch(data / 'cifar10', *files)
    assert needs('wrn16-1_1xb128_cifar10') == []


def test_files_that_an_unpacked_cifar_lacks(data):
    folder = data / 'cifar10' / 'cifar-10-batches-py'
    touch(folder, *(name for name in CIFAR10_FILES if name not in ('data_batch_3', 'test_batch')))
    # The folder takes precedence over the archive, and is not completed by a download.
    touch(data / 'cifar10', 'cifar-10-python.tar.gz')
    found = 'batches.meta, data_batch_1, data_batch_2, data_batch_4, data_batch_5'
    assert_names(needs('wrn16-1_1xb128_cifar10'),
                 (str(folder), 'lacks data_batch_3', found), (str(folder), 'lacks test_batch', found))
    assert len(needs('wrn16-1_1xb128_cifar10', **{'train_dataloader.dataset.download': True})) == 2


def test_class_names_that_both_splits_of_cifar_lack(data):
    folder = data / 'cifar10' / 'cifar-10-batches-py'
    touch(folder, *CIFAR10_FILES[:6])
    assert_names(needs('wrn16-1_1xb128_cifar10'), (str(folder), 'lacks batches.meta', ', '.join(CIFAR10_FILES[:6])))


def test_a_dataset_that_downloads_itself_is_not_missing():
    # The training split downloads the archive before the test split is read.
    assert needs('wrn16-1_1xb128_cifar10', **{'train_dataloader.dataset.download': True}) == []


# ImageNet

def imagenet(root, lacks):
    """Parts of the message."""
    return (f'ImageNet lacks {lacks}.', 'train/<class>/*.JPEG', 'val/<class>/*.JPEG', 'val/*.JPEG', 'meta/val.txt',
            f"'{root}'", IMAGENET_URL, 'data_root')


def test_no_imagenet(data):
    root = data / 'imagenet'
    assert_names(needs('resnet18_8xb32_in1k'), imagenet(root, f"the folder '{root}/train'"))


@pytest.mark.parametrize('there, lacks', [
    (['train/n01440764/a.JPEG'], ["the folder '{}/val'"]),
    (['val/n01440764/a.JPEG'], ["the folder '{}/train'"]),
    # The layout of the archive of validation images.
    (['train/n01440764/a.JPEG', 'val/a.JPEG'], ["a folder for each class in '{}/val'"]),
    (['train/a.JPEG', 'val/a.JPEG'], ["a folder for each class in '{}/train'", "a folder for each class in '{}/val'"]),
    (['meta/train.txt', 'meta/val.txt', 'train/a.JPEG'], ["the folder '{}/val'"]),
    (['train/n01440764/a.JPEG', 'val/n01440764/a.JPEG'], []),
    (['train/n01440764/a.JPEG', 'val/a.JPEG', 'meta/val.txt'], []),
    (['train/a.JPEG', 'meta/train.txt', 'val/a.JPEG', 'meta/val.txt'], []),
])
def test_parts_of_imagenet(data, there, lacks):
    root = data / 'imagenet'
    touch(root, *there)
    assert_names(needs('resnet18_8xb32_in1k'), *(imagenet(root, each.format(root)) for each in lacks))


def test_an_annotation_file_of_a_config(data):
    root = data / 'imagenet'
    touch(root, 'train/a.JPEG', 'val/n01440764/a.JPEG')
    assert_names(needs('resnet18_8xb32_in1k', **{'train_dataloader.dataset.ann_file': 'few.txt'}),
                 imagenet(root, f"the file '{root}/few.txt'"))


# CUB and Indoor-67

CUB_SOURCE = ('CUB_200_2011.tgz', 'https://www.vision.caltech.edu/datasets/cub_200_2011/', 'data_root')
ROOMS_SOURCE = ('indoorCVPR_09.tar', 'https://web.mit.edu/torralba/www/indoor.html', 'TrainImages.txt',
                'TestImages.txt', 'Images/')
# The tests' folders hold four images, not the complete datasets.
PARTS = {f'{loader}_dataloader.dataset.complete': False for loader in ('train', 'val', 'test')}


def place(data, folder):
    """Link a folder of images of other tests to where the configs expect it."""
    (data / folder).symlink_to(data.parent / folder)
    return data / folder


def test_no_birds(data):
    files = 'images.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt'
    assert_names(needs('resnet18_1xb64_cub'), (f"'{data}/CUB_200_2011'", files, *CUB_SOURCE))


@pytest.mark.usefixtures('birds')
def test_all_birds(data):
    place(data, 'CUB_200_2011')
    assert needs('resnet18_1xb64_cub', **PARTS) == []
    assert_names(needs('resnet18_1xb64_cub'), *(
        (split, f'{data}/CUB_200_2011', 'images.txt', ' 2 ', official, 'complete=False')
        for split, official in (('train', '5,994'), ('test', '5,794'))))


@pytest.mark.usefixtures('birds')
def test_files_that_the_birds_lack(data):
    root = place(data, 'CUB_200_2011')
    (root / 'bounding_boxes.txt').unlink()
    message, = needs('resnet18_1xb64_cub', **PARTS)
    assert_names([message], (f"'{root}'", 'bounding_boxes.txt', *CUB_SOURCE))
    assert 'images.txt' not in message


@pytest.mark.usefixtures('birds')
def test_an_image_that_the_birds_lack(data):
    root = place(data, 'CUB_200_2011')
    lost = '017.Cardinal/Cardinal_0001_17057.jpg'
    (root / 'images' / lost).unlink()
    assert_names(needs('resnet18_1xb64_cub', **PARTS), ('1 of the 2 images', 'images.txt', f"'{root}/images'", lost))


def test_no_rooms(data):
    assert_names(needs('resnet18_1xb64_indoor67'), (f"'{data}/indoor67'", 'TrainImages.txt, Images/', *ROOMS_SOURCE))


@pytest.mark.usefixtures('rooms')
def test_all_rooms_and_a_missing_list(data):
    root = place(data, 'indoor67')
    assert needs('resnet18_1xb64_indoor67', **PARTS) == []
    (root / 'TestImages.txt').unlink()
    assert_names(needs('resnet18_1xb64_indoor67', **PARTS), (f"'{root}': TestImages.txt ", *ROOMS_SOURCE))


# Packages

def test_digits_need_scikit_learn(monkeypatch):
    assert needs('wrn16-1_1xb10_digits') == []
    find_spec, import_ = importlib.util.find_spec, builtins.__import__

    def no_sklearn(name, *args, **kwargs):
        if name.startswith('sklearn'):
            raise ImportError(name)
        return import_(name, *args, **kwargs)

    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'sklearn' else find_spec(name))
    monkeypatch.setattr(builtins, '__import__', no_sklearn)
    assert_names(needs('wrn16-1_1xb10_digits'), ('pip install scikit-learn', ))


TIMM = dict(type='mmpretrain.TimmClassifier', model_name='resnet18', pretrained=True,
            data_preprocessor=dict(mean=[0.] * 3, std=[1.] * 3))


def test_timm_networks_need_timm(write_config, monkeypatch):
    from mmpretrain.models import TimmClassifier
    config = write_config(model=dict(
        _delete_=True, type='mmat.Distiller', student='wrn16-1_1xb10_digits', teacher=dict(model=TIMM), at_heads=[]))
    assert needs(config) == []

    def absent():
        raise ImportError('TimmClassifier requires timm, please install it by `pip install "timm"`.')

    monkeypatch.setattr(TimmClassifier.__init__, '_verify_require', absent)
    assert_names(needs(config), ('TimmClassifier', 'pip install "timm"'))


# Weights

def distiller(**teacher):
    return dict(_delete_=True, type='mmat.Distiller', student='wrn16-1_1xb10_digits', at_heads=[], teacher=teacher)


def test_weights_to_begin_with(tmp_path, write_config):
    config = write_config(load_from='weights/before.pth')
    assert_names(needs(config), ('load_from: ', f"'{tmp_path}/weights/before.pth'", f"'{tmp_path}/weights'"))
    touch(tmp_path, 'weights/befor.pth')
    assert_names(needs(config), ('load_from: ', f"'{tmp_path}/weights/before.pth'", 'befor.pth'))
    touch(tmp_path, 'weights/before.pth')
    assert needs(config) == []
    # A work directory stands for its last checkpoint.
    touch(tmp_path, 'earlier/epoch_3.pth')
    assert needs(write_config(load_from='earlier')) == []


def test_pretrained_parts_of_a_network(tmp_path, write_config):
    config = write_config(model=dict(backbone=dict(init_cfg=[
        dict(type='Kaiming', layer='Conv2d'), dict(type='Pretrained', checkpoint='old.pth', prefix='backbone.')])))
    assert_names(needs(config), ('init_cfg: ', f"'{tmp_path}/old.pth'"))
    # Also of a student that is given by its config's name.
    student = dict(distiller(model='wrn16-2_1xb32_digits', checkpoint='old.pth'), student=config)
    assert [message.partition(':')[0] for message in needs(write_config('outer.py', model=student))] == [
        'Teacher weights', 'init_cfg']
    touch(tmp_path, 'old.pth')
    assert needs(config) == needs('outer.py') == []


def test_a_teacher_that_is_not_trained_here(tmp_path, write_config):
    config = write_config(model=distiller(model='wrn16-2_1xb32_digits', checkpoint='work_dirs/teacher'))
    assert_names(needs(config), ('Teacher weights: ', f"'{tmp_path}/work_dirs/teacher'", f"'{tmp_path}/work_dirs'"))
    touch(tmp_path, 'work_dirs/teacher/epoch_1.pth')
    assert needs(config) == []


def test_a_teacher_without_a_checkpoint(write_config):
    config = write_config(model=distiller(model='wrn40-1_1xb128_cifar10'))
    with pytest.raises(UserError, match='wrn40-1_1xb128_cifar10.*checkpoint'):
        missing_requirements([a_run(config)])


def test_a_teacher_that_is_trained_before(tmp_path):
    teacher = a_run('wrn16-2_1xb32_digits')
    student = a_run('wrn16-1_at-wrn16-2_1xb10_digits', teacher=teacher)
    assert missing_requirements([teacher, student]) == []
    finish(teacher)
    folder = tmp_path / 'work/wrn16-2_1xb32_digits/seed0'
    assert_names(missing_requirements([teacher, student]), (
        f"'{folder}'", 'last_checkpoint', 'epoch_*.pth', '. Needed by wrn16-1_at-wrn16-2_1xb10_digits'))
    touch(folder, 'epoch_60.pth')
    assert missing_requirements([teacher, student]) == []


RESNET18 = 'https://download.openmmlab.com/mmclassification/v0/resnet/resnet18_8xb32_in1k_20210831-fbbb1da6.pth'
RESNET34 = 'https://download.openmmlab.com/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth'


def test_weights_at_a_url_are_downloaded_and_not_missing(tmp_path, write_config):
    config = write_config(load_from='https://example.com/before.pth')
    assert needs(config) == []
    assert_names(pending_downloads([a_run(config)]),
                 ('https://example.com/before.pth ', f"'{tmp_path}/hub/checkpoints'. Needed by own"))
    teacher = a_run('resnet34_1xb64_cub')
    student = a_run('resnet18_at-resnet34_1xb64_cub', teacher=teacher)
    alone = a_run('resnet18_1xb64_cub')
    to = f"'{tmp_path}/hub/checkpoints'. Needed by"
    assert_names(pending_downloads([teacher, student, alone]),
                 (f'{RESNET34} ', f'{to} resnet34_1xb64_cub'),
                 (f'{RESNET18} ', f'{to} resnet18_at-resnet34_1xb64_cub, resnet18_1xb64_cub'))
    touch(tmp_path / 'hub' / 'checkpoints', Path(RESNET18).name)
    assert_names(pending_downloads([teacher, student, alone]), (f'{RESNET34} ', f'{to} resnet34_1xb64_cub'))


def test_the_zoos_weights_of_a_teacher_that_is_not_trained(data):
    touch(data / 'imagenet', 'train/n01440764/a.JPEG', 'val/n01440764/a.JPEG')
    student = a_run('resnet18_at-resnet34_8xb32_in1k')
    assert missing_requirements([student]) == []
    assert [message.split()[0] for message in pending_downloads([student])] == [RESNET34]
    student.teacher = a_run('resnet34_8xb32_in1k')
    assert pending_downloads([student]) == []


# Datasets of users

@DATASETS.register_module()
class Pebbles(Dataset):
    """Accepts any settings, and must not be built by the check."""

    def __init__(self, **settings):
        raise AssertionError('built')


@pytest.mark.parametrize('settings, lacks', [
    (dict(data_root='data/pebbles'), ['data/pebbles']),
    (dict(data_root='data/pebbles', ann_file='list.txt', data_prefix='pictures'), ['data/pebbles']),
    (dict(data_root='data', ann_file='list.txt', data_prefix=dict(img='pictures', depth='')),
     ['data/list.txt', 'data/pictures']),
    (dict(data_root='data', ann_file='there.txt', data_prefix='stones'), []),
    (dict(ann_file='data/there.txt', data_prefix='data/pictures'), ['data/pictures']),
    (dict(ann_file='/absent/list.txt', data_root='data'), ['/absent/list.txt']),
    (dict(data_root='data/pebbles', download=True), []),
    (dict(data_root='s3://bucket/pebbles'), []),
    (dict(dataset='another name', data_root='data/pebbles'), ['data/pebbles']),
    (dict(), []),
])
def test_an_unknown_dataset(tmp_path, data, write_config, settings, lacks):
    touch(data, 'there.txt', 'stones/1.png')
    absent = ' and '.join(repr(str(tmp_path / place)) for place in lacks)
    expected = [f'Pebbles lacks {absent}'] if lacks else []
    assert needs(write_config(**replaced(type='mmat.Pebbles', **settings))) == expected
    # Also inside wrappers.
    inner = dict(type='mmat.Pebbles', **settings)
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner, inner]))
    assert needs(write_config('wrapped.py', **replaced(**wrapped))) == expected


def test_cifar_of_mmpretrain_downloads_itself(write_config):
    settings = dict(type='mmpretrain.CIFAR10', data_root='data/absent', split='train')
    assert needs(write_config(**replaced(**settings))) == []
    assert needs(write_config('offline.py', **replaced(**settings, download=False)))


@pytest.mark.parametrize('kind', ['mmpretrain.CustomDataset', 'CustomDataset'])
def test_pictures_in_folders(tmp_path, data, write_config, kind):
    pipeline = [dict(type='mmpretrain.LoadImageFromFile')]
    config = write_config(**replaced(type=kind, data_root='data/mine', data_prefix='train', pipeline=pipeline))
    assert needs(config) == [f"CustomDataset lacks the folder '{data}/mine/train'"]
    touch(data / 'mine' / 'train', 'a.png')
    assert needs(config) == [f"CustomDataset lacks a folder for each class in '{data}/mine/train'"]
    touch(data / 'mine' / 'train', 'cat/a.png')
    assert needs(config) == []
    (data / 'mine' / 'train' / 'a.png').rename(data / 'mine' / 'a.png')
    bare = write_config('bare.py', **replaced(type=kind, data_prefix='data/mine', ann_file='lists/few.txt'))
    assert needs(bare) == [f"CustomDataset lacks the file '{tmp_path}/lists/few.txt'"]


# Configs that need it

def test_a_dataset_is_reported_once_for_all_configs_and_seeds(data):
    runs = training_order(plan(read_recipe(str(ROOT / 'recipes' / 'at_table4.py')), Path('work')))
    messages = missing_requirements(runs)
    assert_names(messages, (f"'{data}/CUB_200_2011'", ), (f"'{data}/indoor67'", ))
    assert messages[0].endswith(
        '. Needed by resnet34_1xb64_cub, resnet18_1xb64_cub, resnet18_kd-resnet34_1xb64_cub and 1 more')


def test_finished_runs_need_nothing(write_config):
    runs = [a_run('wrn16-1_1xb128_cifar10', seed) for seed in range(2)]
    finish(runs[0])
    assert len(missing_requirements(runs)) == 1
    finish(runs[1])
    assert missing_requirements(runs) == []
    assert missing_requirements([]) == pending_downloads([]) == []


def test_options_of_a_run_count(data, write_config):
    touch(data / 'elsewhere', 'cifar-10-python.tar.gz')
    options = {f'{loader}_dataloader.dataset.data_root': 'data/elsewhere' for loader in ('train', 'val', 'test')}
    assert needs('wrn16-1_1xb128_cifar10', **options) == []


def test_the_check_writes_nothing_and_changes_no_config(data, tmp_path):
    before = json.dumps(Config.fromfile(CONFIGS['resnet18_at-resnet34_1xb64_cub']).to_dict())
    run = a_run('resnet18_at-resnet34_1xb64_cub', teacher=a_run('resnet34_1xb64_cub'))
    first = missing_requirements([run]), pending_downloads([run])
    assert (missing_requirements([run]), pending_downloads([run])) == first
    assert json.dumps(Config.fromfile(CONFIGS['resnet18_at-resnet34_1xb64_cub']).to_dict()) == before
    assert [path.name for path in tmp_path.iterdir()] == ['data'] and not any(data.iterdir())
