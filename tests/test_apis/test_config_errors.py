import pytest
import torch
import torch.nn as nn
from mmengine import registry
from mmengine.config import Config
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.runner import Runner
from PIL import Image
from zoo_table import CONFIGS

from mmat.apis.config_errors import check_keys, check_settings, find_config_error
from mmat.errors import ConfigError, DataError, MissingFileError
from mmat.registry import DATASETS, MODELS

RUN = dict(model=dict(type='Net'), train_cfg=dict(by_epoch=True, max_epochs=1),
           train_dataloader=dict(dataset=dict(type='mmat.Digits'), sampler=dict(type='DefaultSampler')),
           optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))


# Top-level keys

@pytest.mark.parametrize('key, closest', [
    ('optim_wraper', 'optim_wrapper'), ('train_cgf', 'train_cfg'), ('custom_hook', 'custom_hooks'),
    ('param_sheduler', 'param_scheduler'), ('defualt_hooks', 'default_hooks'), ('load_form', 'load_from')])
def test_a_misspelt_key_is_refused_with_the_closest(key, closest):
    with pytest.raises(ConfigError) as error:
        check_keys(Config({'model': dict(), key: dict(a=1)}))
    assert repr(key) in str(error.value) and repr(closest) in str(error.value)


def test_an_unused_key_is_a_warning_and_one_with_an_underscore_is_not(monkeypatch):
    messages = []
    monkeypatch.setattr('mmat.apis.config_errors.print_log', lambda text, *args: messages.append(text))
    # Equal numbers elsewhere are no use.
    config = Config(dict(model=dict(depth=3), zebra=3, _zebra=3, _custom_hook=3))
    check_keys(config)
    assert len(messages) == 1 and "'zebra'" in messages[0] and config.zebra == config._zebra == 3


@pytest.mark.parametrize('text', ['# train_dataloder\ntrain_dataloder = dict(batch_size=3)\n',
                                  "custom_hook = [dict(a=1)]\ncustom_hook[0]['a'] = 2\n"])
def test_a_misspelt_key_in_a_comment_or_an_assignment_is_not_used(text, tmp_path):
    path = tmp_path / 'train_dataloder.py'
    path.write_text(text)
    with pytest.raises(ConfigError, match="'train_dataloader'|'custom_hooks'"):
        check_keys(Config.fromfile(path))


def test_variables_of_a_config_are_known_by_value_or_by_name(tmp_path, monkeypatch):
    (tmp_path / 'base.py').write_text("root = 'data'\nsize = 32\npipeline = [dict(type='A')]\n"
                                      "train_dataloader = dict(dataset=dict(root=f'{root}/train', size=size * 2))\n")
    (tmp_path / 'leaf.py').write_text("_base_ = 'base.py'\n"
                                      "val_dataloader = dict(dataset=dict(pipeline=[dict(type='A')]))\n")
    config = Config.fromfile(tmp_path / 'leaf.py')
    monkeypatch.setattr('mmat.apis.config_errors.print_log', None)
    check_keys(config)
    assert config.train_dataloader.dataset == dict(root='data/train', size=64)


def test_shipped_configs_pass():
    for path in CONFIGS.values():
        config = Config.fromfile(path)
        check_keys(config)
        check_settings(config, 'train')
        check_settings(config, 'test')


# Required settings

@pytest.mark.parametrize('key', ['model', 'train_dataloader', 'train_cfg', 'optim_wrapper'])
@pytest.mark.parametrize('value', ['missing', None, 3])
def test_training_needs(key, value):
    config = {name: setting for name, setting in RUN.items() if name != key}
    check_settings(Config(RUN), 'train')
    if value != 'missing':
        config[key] = value
    with pytest.raises(ConfigError, match=f"'{key}'"):
        check_settings(Config(config), 'train')


@pytest.mark.parametrize('changes, names', [
    (dict(val_cfg=dict()), ['val_dataloader', 'val_evaluator']),
    (dict(train_dataloader=dict(sampler=dict())), ['train_dataloader', 'dataset']),
    (dict(train_dataloader=dict(dataset=dict(), smapler=dict())), ['sampler', 'smapler']),
    (dict(optim_wrapper=dict(optimzer=dict())), ['optimizer', 'optimzer']),
    (dict(optim_wrapper=dict(optimizer=dict(type='SDG'))), ['SDG', 'SGD']),
    (dict(optim_wrapper=dict(optimizer=dict(lr=1))), ['optimizer', 'None']),
    (dict(test_dataloader=RUN['train_dataloader'], test_cfg=dict()), ['test_evaluator']),
    (dict(randomness=dict(sed=3)), ['sed', 'seed']),
    (dict(randomness=None), ['randomness']),
    (dict(env_cfg=None), ['env_cfg']),
    (dict(log_level='INFOO'), ['INFOO', 'INFO']),
    (dict(train_dataloader=dict(RUN['train_dataloader'], collate_fn=dict(type='mmat.keep_btach'))),
     ['mmat.keep_btach', 'mmat.keep_batch']),
    (dict(train_dataloader=dict(RUN['train_dataloader'], collate_fn=None)), ['collate_fn', 'None']),
    (dict(train_cfg=dict(max_epochs=3)), ['train_cfg', 'by_epoch', 'type']),
    (dict(train_cfg=dict(type='EpochBasedTrainLoop', by_epoch=True)), ['train_cfg', 'by_epoch', 'type']),
])
def test_settings_that_do_not_fit_are_named(changes, names):
    with pytest.raises(ConfigError) as error:
        check_settings(Config({**RUN, **changes}), 'train')
    assert [name for name in names if name not in str(error.value)] == []


def test_types_of_the_default_scope_are_known():
    optimizer = dict(type='LARS', lr=0.1)
    check_settings(Config({**RUN, 'default_scope': 'mmpretrain', 'optim_wrapper': dict(optimizer=optimizer)}), 'train')


def test_testing_needs_its_own_settings():
    with pytest.raises(ConfigError, match="'test_dataloader'"):
        check_settings(Config(RUN), 'test')


# Errors of mmengine's builders

class OfOurs(nn.Module):
    """A network with a bug."""

    def __init__(self, width, depth=1):
        super().__init__()
        raise ValueError('a bug')


class Nested(nn.Module):
    """A network that builds a part with a bug."""

    def __init__(self):
        super().__init__()
        MODELS.build(dict(type='mmpretrain.ResNet', depth=17))


class Registered(nn.Module):

    def __init__(self, width, depth=1):
        super().__init__()


@pytest.fixture(autouse=True)
def registered():
    before = dict(MODELS.module_dict)
    MODELS.register_module(module=OfOurs)
    MODELS.register_module(module=Nested)
    MODELS.register_module(module=Registered)
    yield
    MODELS._module_dict = before


def translated(build):
    with pytest.raises(Exception) as raised:
        build()
    return find_config_error(raised.value)


LOADER = dict(dataset=dict(type='mmat.Digits', split='test'), sampler=dict(type='DefaultSampler', shuffle=False))


@pytest.mark.parametrize('build, names', [
    (lambda: MODELS.build(dict(type='mmat.WideResnet')), ["'mmat.WideResnet'", "'mmat.WideResNet'"]),
    (lambda: MODELS.build(dict(typ='mmat.WideResNet')), ['`type`', "'typ'"]),
    (lambda: MODELS.build('mmat.WideResNet'), ['dict', "'mmat.WideResNet'"]),
    (lambda: MODELS.build(dict(type=3)), ['`type`', '3']),
    (lambda: MODELS.build(dict(type='mmat.Registered', widht=3)), ['Registered', "'widht'", "'width'"]),
    (lambda: MODELS.build(dict(type='mmat.Registered', zzz=3)), ['Registered', "'zzz'", 'width, depth']),
    (lambda: MODELS.build(dict(type='mmat.Registered')), ['Registered', "'width'"]),
    (lambda: ROOT_HOOKS.build(dict(type='LoggerHook', intervall=3)), ['LoggerHook', "'intervall'", "'interval'"]),
    (lambda: Runner.build_dataloader(dict(LOADER, batch_sze=3)), ['DataLoader', "'batch_sze'", "'batch_size'"]),
    (lambda: Runner.build_dataloader(dict(LOADER, batch_size=0)), ['DataLoader', 'batch_size=0']),
    # Constructors of libraries check their arguments.
    (lambda: registry.PARAM_SCHEDULERS.build(
        dict(type='StepLR', step_size=3, begin=5, end=2),
        default_args=dict(optimizer=torch.optim.SGD([torch.zeros(1)], lr=1.))), ['StepLR', 'begin', 'end']),
    (lambda: MODELS.build(dict(type='mmpretrain.ResNet', depth=17)), ['ResNet', '17']),
])
def test_a_mistake_in_a_config_is_named(build, names):
    error = translated(build)
    assert type(error) is ConfigError and '\n' not in str(error)
    assert [name for name in names if name not in str(error)] == []


def test_a_missing_folder_of_a_dataset():
    dataset = dict(type='mmpretrain.ImageNet', data_root='data/nowhere', split='train', pipeline=[])
    error = translated(lambda: DATASETS.build(dataset))
    assert type(error) is MissingFileError
    assert 'data/nowhere/train' in str(error) and 'dataset.data_root=PATH' in str(error)


# Images that mmpretrain loads

def folder_loader(folder, load='mmpretrain.LoadImageFromFile', workers=0):
    pipeline = [dict(type=load), dict(type='mmpretrain.PackInputs')]
    return Runner.build_dataloader(dict(
        batch_size=1, num_workers=workers, sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='mmpretrain.CustomDataset', data_root=str(folder), pipeline=pipeline)))


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('content', ['half', 'nothing', 'a page'])
def test_an_image_that_cannot_be_loaded_is_named(content, workers, tmp_path):
    path = tmp_path / 'cat' / 'a.jpg'
    path.parent.mkdir()
    Image.effect_noise((64, 64), 50).save(path)
    whole = path.read_bytes()
    path.write_bytes({'half': whole[:len(whole) // 2], 'nothing': b'', 'a page': b'<html>Not found</html>'}[content])
    error = translated(lambda: next(iter(folder_loader(tmp_path, workers=workers))))
    assert type(error) is DataError and '\n' not in error.one_line()
    # OpenCV's error about an empty file has no path, which is lost between processes.
    assert str(path) in str(error) or (content == 'nothing' and workers and 'mmat.LoadImage' in str(error))
    with pytest.raises(DataError) as ours:
        next(iter(folder_loader(tmp_path, 'mmat.LoadImage', workers)))
    assert repr(str(path)) in ours.value.one_line() and '\n' not in ours.value.one_line()


@pytest.mark.parametrize('workers, kind', [(0, MissingFileError), (1, DataError)])
def test_an_image_that_is_gone_is_named(workers, kind, tmp_path):
    path = tmp_path / 'cat' / 'a.jpg'
    path.parent.mkdir()
    path.touch()
    loader = folder_loader(tmp_path, workers=workers)
    path.unlink()
    error = translated(lambda: next(iter(loader)))
    assert type(error) is kind and str(path) in str(error) and '\n' not in error.one_line()


def test_a_folder_without_images_is_named(tmp_path):
    for name in ('a.txt', 'b.jpg'):
        (tmp_path / name).touch()
    (tmp_path / 'cat').mkdir()
    error = translated(lambda: folder_loader(tmp_path))
    assert type(error) is DataError and str(tmp_path) in str(error)
    error = translated(lambda: DATASETS.build(dict(type='mmpretrain.ImageNet', data_root=str(tmp_path), pipeline=[])))
    assert type(error) is DataError and str(tmp_path) in str(error) and '1000' in str(error)


@pytest.mark.parametrize('build', [
    lambda: MODELS.build(dict(type='mmat.OfOurs', width=3)),
    lambda: MODELS.build(dict(type='mmat.Nested')),
    lambda: MODELS.build(dict(type='mmat.Registered', width=3))(3),
    lambda: {}['oops'],
    lambda: nn.Linear(2, 3)(3),
    lambda: int('x'),
    lambda: open('/nowhere'),
])
def test_a_bug_is_no_mistake_of_the_config(build):
    assert translated(build) is None


# Empty data

def test_a_dataset_without_images_is_an_error_in_the_data(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        Image.new('RGB', (8, 8)).save(tmp_path / name / 'image.png')
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), indices=[])
    with pytest.raises(ValueError) as raised:
        Runner.build_dataloader(dict(dataset=dataset, batch_size=1, sampler=dict(type='DefaultSampler')))
    error = find_config_error(raised.value)
    assert isinstance(error, DataError) and 'CustomDataset' in str(error) and '0' in str(error)


def test_a_schedule_by_iterations_without_batches_is_an_error_of_the_loader(make_runner, network_config):
    runner = make_runner(network_config(), **{
        'train_dataloader.batch_size': 65, 'train_dataloader.drop_last': True,
        'param_scheduler': dict(_delete_=True, type='LinearLR', start_factor=0.1, convert_to_iter_based=True)})
    with pytest.raises(AssertionError) as raised:
        runner.train()
    error = find_config_error(raised.value)
    assert isinstance(error, ConfigError)
    assert all(part in str(error) for part in ('train_dataloader', 'Digits', '64', '65', 'True'))
