import copy
import functools
import re
from pathlib import Path

import mmpretrain
import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, DefaultScope, Registry
from mmpretrain import registry as mmpretrain_registry

import mmat
from mmat import registry as mmat_registry
from mmat.models import Distiller, build_network

ROOT = Path(__file__).parents[1]
CONFIGS = {path.stem: path for path in sorted(ROOT.glob('configs/[!_]*/*.py'))}
METAFILES = sorted(ROOT.glob('configs/*/metafile.yml'))
ENTRIES = {entry['Name']: entry for metafile in METAFILES for entry in load(metafile)['Models']}
DISTILLATION = [name for name in CONFIGS if '_at-' in name]

every_config = pytest.mark.parametrize('name', CONFIGS)


@functools.lru_cache
def read(name):
    return Config.fromfile(CONFIGS[name])


def config_of(name):
    # Of one's own: mmpretrain's classifier writes into the config it is built from.
    return copy.deepcopy(read(name))


def parts(name):
    """Student, method's teacher or None, GPUs, batch size of one, dataset."""
    student, teacher, gpus, batch, data = re.fullmatch(r'([^_]+)(?:_at-([^_]+))?_(\d+)xb(\d+)_(\w+)', name).groups()
    return student, teacher, int(gpus), int(batch), data


def student_name(name):
    student, _, gpus, batch, data = parts(name)
    return f'{student}_{gpus}xb{batch}_{data}'


# Names

def test_the_contracts_names_are_there():
    at = ['wrn16-1_at-wrn16-2', 'wrn16-1_at-wrn40-1', 'wrn16-2_at-wrn40-2']
    plain = ['wrn16-1', 'wrn16-2', 'wrn40-1', 'wrn40-2']
    expected = {**dict.fromkeys(plain, 'wide_resnet'), **dict.fromkeys(at, 'at')}
    found = {name: path.parent.name for name, path in CONFIGS.items() if name.endswith('cifar10')}
    assert found == {f'{name}_1xb128_cifar10': folder for name, folder in expected.items()}


@every_config
def test_the_name_tells_what_is_in_it(name):
    student, teacher, gpus, batch, data = parts(name)
    config = config_of(name)
    network = config.model.student if teacher else config.model
    depth, width = re.fullmatch(r'wrn(\d+)-(\d+)', student).groups()
    assert (network.backbone.depth, network.backbone.widen_factor) == (int(depth), int(width))
    assert (gpus, config.train_dataloader.batch_size) == (1, batch)
    assert config.train_dataloader.dataset.type.lower() == f'mmat.{data}'


# Building

@pytest.mark.parametrize('scope', ['mmat', 'mmpretrain', 'mmengine'])
@every_config
def test_it_builds_under_any_scope(name, scope):
    config = config_of(name)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(config.model)
        METRICS.build(config.val_evaluator)
        for hook in config.default_hooks.values():
            HOOKS.build(hook)
        if 'digits' in name:
            assert len(DATASETS.build(config.train_dataloader.dataset)) > 0
    assert isinstance(model, Distiller) == (name in DISTILLATION)


@every_config
def test_it_builds_with_mmpretrains_get_model(name):
    model = mmpretrain.get_model(config_of(name))
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


@every_config
def test_it_is_found_by_its_name(name):
    assert name in mmat.list_models()
    assert mmat.get_model(name)(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


@every_config
def test_types_of_ours_and_of_mmpretrain_have_their_prefix(name):
    need_prefix = {
        type_ for module in (mmat_registry, mmpretrain_registry) for node in vars(module).values()
        if isinstance(node, Registry) and node.scope != 'mmengine' for type_ in node.module_dict
    }
    assert {'WideResNet', 'ImageClassifier', 'GlobalAveragePooling', 'CheckpointHook'} <= need_prefix

    def types(value):
        if isinstance(value, dict):
            if isinstance(value.get('type'), str):
                yield value['type']
            value = value.values()
        if not isinstance(value, str) and hasattr(value, '__iter__'):
            for item in value:
                yield from types(item)

    found = list(types(config_of(name).to_dict()))
    assert len(found) > 15
    assert not [type_ for type_ in found if '.' not in type_ and type_ in need_prefix]


# The published recipe (CIFAR-10, the attention transfer authors' code)

@pytest.mark.parametrize('name', [name for name in CONFIGS if name.endswith('cifar10')])
def test_cifar_configs_have_the_published_recipe(name):
    config = config_of(name)
    loader = config.train_dataloader
    assert loader.batch_size == 128
    assert loader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert not loader.get('drop_last', False)
    assert loader.dataset == dict(type='mmat.CIFAR10', data_root='data/cifar10', split='train')
    assert config.val_dataloader.dataset == dict(type='mmat.CIFAR10', data_root='data/cifar10', split='test')
    assert config.test_dataloader == config.val_dataloader
    # No Nesterov, no exception from the weight decay, BN included.
    assert config.optim_wrapper == dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
    assert config.param_scheduler == dict(type='MultiStepLR', by_epoch=True, milestones=[60, 120, 160], gamma=0.2)
    assert (config.train_cfg.by_epoch, config.train_cfg.max_epochs, config.train_cfg.val_interval) == (True, 200, 1)

    model = MODELS.build(config.model)
    preprocessor = model.data_preprocessor
    assert preprocessor.mean.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9])
    assert preprocessor.std.flatten().tolist() == pytest.approx([63.0, 62.1, 66.7])
    assert (preprocessor.padding, preprocessor.flip_prob) == (4, 0.5)
    assert not [module for module in model.modules() if 'Dropout' in type(module).__name__]
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert 0 <= module.weight.min() < module.weight.max() < 1 and not module.bias.any()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            # Kaiming normal; 0.2 is over four standard errors for the smallest of them, 432 weights.
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in)**0.5, rel=0.2)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize('name', [name for name in DISTILLATION if name.endswith('cifar10')])
def test_cifar_configs_have_the_authors_transfer(name):
    assert config_of(name).model.at_heads == [
        dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=1000)]
    head = MODELS.build(config_of(name).model).at_heads[0]
    assert (head.factor, head.form, head.p, head.reduction) == (1000, 'code', 2, 'sum')


# Distillation

@pytest.mark.parametrize('name', DISTILLATION)
def test_a_distillation_config_is_its_students_and_at_most_15_lines(name):
    lines = [line for line in CONFIGS[name].read_text().splitlines() if line.strip()]
    assert len(lines) <= 15
    distillation, student = (config_of(each).to_dict() for each in (name, student_name(name)))
    model = distillation.pop('model')
    assert model['student'] == student.pop('model')
    assert distillation == student
    teacher = model['teacher']['model']
    assert parts(teacher)[0] == parts(name)[1] and parts(teacher)[4] == parts(name)[4]
    assert model['teacher']['checkpoint'] == f'work_dirs/{teacher}'


# Metafiles

def multiply_accumulates(network, size):
    """Of convolutions and linear layers, for one image."""
    counts = []

    def count(module, args, output):
        positions = output[0, 0].numel() if output.dim() == 4 else 1
        counts.append(module.weight.numel() * positions)

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    network.eval()(torch.zeros(1, 3, size, size))
    return sum(counts)


def test_the_metafiles_list_the_configs():
    assert set(ENTRIES) == set(CONFIGS)
    assert sum(len(load(metafile)['Models']) for metafile in METAFILES) == len(CONFIGS)
    assert [ROOT / path for path in sorted(load(ROOT / 'model-index.yml')['Import'])] == METAFILES


@every_config
def test_a_metafile_entry_tells_the_truth(name):
    entry = ENTRIES[name]
    data = dict(cifar10=('CIFAR-10', 32), digits=('Digits', 16))
    dataset, size = data[parts(name)[4]]
    network = build_network(name)
    assert ROOT / entry['Config'] == CONFIGS[name]
    assert entry['Metadata']['Training Data'] == dataset
    assert entry['Metadata']['Parameters'] == sum(parameter.numel() for parameter in network.parameters())
    assert entry['Metadata']['FLOPs'] == multiply_accumulates(network, size)
    if name in DISTILLATION:
        assert entry['Metadata']['Student'] == student_name(name)
        assert entry['Metadata']['Teacher'] == config_of(name).model.teacher.model
        assert {entry['Metadata']['Student'], entry['Metadata']['Teacher']} <= set(ENTRIES)


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_what_a_metafile_refers_to_is_there(metafile):
    content = load(metafile)
    for collection in content['Collections']:
        assert (ROOT / collection['README']).is_file()
        assert (ROOT / collection['Code']['URL']).is_file()
    names = {collection['Name'] for collection in content['Collections']}
    assert {entry['In Collection'] for entry in content['Models']} == names
