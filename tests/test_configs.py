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
PAIRS = [('nin-thin', 'nin-wide'), ('wrn16-1', 'wrn16-2'), ('wrn16-1', 'wrn40-1'), ('wrn16-2', 'wrn40-2')]
AT = dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=1000)
KD = dict(type='mmat.SoftTargetHead', T=4, alpha=0.9)
# What each method's heads are.
METHODS = {
    'at': [AT],
    'kd': [KD],
    'at-kd': [{**AT, 'weight': dict(type='linear', initial=1000, final=0, by_epoch=False)}, KD],
    'factt': [dict(type='mmat.FullActivationHead', pairs=AT['pairs'],
                   weight=dict(type='linear', initial=10, final=0, by_epoch=False))],
    # Table 2, and the ablation of layers.
    'at-fsum1': [{**AT, 'p': 1}],
    'at-fsum4': [{**AT, 'p': 4}],
    'at-fmax1': [{**AT, 'p': 1, 'reduction': 'max'}],
    'at-group0': [{**AT, 'pairs': [(0, 0)]}],
    'at-group1': [{**AT, 'pairs': [(1, 1)]}],
    'at-group2': [{**AT, 'pairs': [(2, 2)]}],
    # Table 3.
    'gradat': [dict(type='mmat.GradientATHead', weight=0.1)],
    'minl2': [dict(type='mmat.GradientNormHead', weight=0.1)],
    'flipsym': [dict(type='mmat.FlipSymmetryHead', weight=0.1)],
}

every_config = pytest.mark.parametrize('name', CONFIGS)


@functools.lru_cache
def read(name):
    return Config.fromfile(CONFIGS[name])


def config_of(name):
    # Of one's own: mmpretrain's classifier writes into the config it is built from.
    return copy.deepcopy(read(name))


def parts(name):
    """Student, method or None, its teacher or None, GPUs, batch size of one, dataset."""
    methods = '|'.join(sorted(METHODS, key=len, reverse=True))
    student, method, teacher, gpus, batch, data = re.fullmatch(
        rf'([^_]+)(?:_({methods})(?:-((?:wrn|nin)[^_]+))?)?_(\d+)xb(\d+)_(\w+)', name).groups()
    return student, method, teacher, int(gpus), int(batch), data


DISTILLATION = [name for name in CONFIGS if parts(name)[1]]
CIFAR = [name for name in CONFIGS if name.endswith('cifar10')]


def student_name(name):
    student, _, _, gpus, batch, data = parts(name)
    return f'{student}_{gpus}xb{batch}_{data}'


# Names

def test_every_cell_of_the_papers_tables_has_a_config():
    table1 = {f'{student}_{method}-{teacher}': 'kd' if method == 'kd' else 'at'
              for student, teacher in PAIRS for method in ('at', 'factt', 'kd', 'at-kd')}
    # F_sum^2 and all three groups are Table 1's.
    table2 = [f'wrn16-1_at-{which}-wrn16-2' for which in ('fsum1', 'fsum4', 'fmax1', 'group0', 'group1', 'group2')]
    table3 = {f'nin-thin-nobn_{method}': 'kd' if method.startswith('kd') else 'at' for method in (
        'minl2', 'flipsym', 'gradat-nin-wide-nobn', 'kd-nin-wide-nobn', 'at-nin-wide-nobn')}
    alone = {f'wrn{which}': 'wide_resnet' for which in ('16-1', '16-2', '40-1', '40-2')}
    alone |= {f'nin-{which}': 'nin' for which in ('thin', 'wide', 'thin-nobn', 'wide-nobn')}
    expected = {**table1, **dict.fromkeys(table2, 'at'), **table3, **alone}
    found = {name: CONFIGS[name].parent.name for name in CIFAR}
    assert found == {f'{name}_1xb128_cifar10': folder for name, folder in expected.items()}


@every_config
def test_the_name_tells_what_is_in_it(name):
    student, method, _, gpus, batch, data = parts(name)
    config = config_of(name)
    backbone = (config.model.student if method else config.model).backbone
    if student.startswith('wrn'):
        depth, width = re.fullmatch(r'wrn(\d+)-(\d+)', student).groups()
        assert (backbone.depth, backbone.widen_factor) == (int(depth), int(width))
    else:
        arch, nobn = re.fullmatch(r'nin-(thin|wide)(-nobn)?', student).groups()
        assert backbone.arch == arch
        assert (backbone.get('norm_cfg', 'BN'), backbone.get('relu_before_pool', True)) == \
            ((None, False) if nobn else ('BN', True))
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

@pytest.mark.parametrize('name', CIFAR)
def test_cifar_configs_have_the_published_recipe(name):
    config = config_of(name)
    loader = config.train_dataloader
    assert loader.batch_size == 128
    assert loader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert not loader.get('drop_last', False)
    assert loader.dataset == dict(type='mmat.CIFAR10', data_root='data/cifar10', split='train')
    assert config.val_dataloader.dataset == dict(type='mmat.CIFAR10', data_root='data/cifar10', split='test')
    assert config.test_dataloader == config.val_dataloader
    # No Nesterov, no exception from the weight decay, BN included. Table 3: no decay, and a rate that does not diverge.
    table3 = 'nobn' in name
    rate, decay = (0.01, 0) if table3 else (0.1, 5e-4)
    assert config.optim_wrapper == dict(optimizer=dict(type='SGD', lr=rate, momentum=0.9, weight_decay=decay))
    assert config.param_scheduler == dict(type='MultiStepLR', by_epoch=True, milestones=[60, 120, 160], gamma=0.2)
    assert (config.train_cfg.by_epoch, config.train_cfg.max_epochs, config.train_cfg.val_interval) == (True, 200, 1)

    model = MODELS.build(config.model)
    preprocessor = model.data_preprocessor
    assert preprocessor.mean.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9])
    assert preprocessor.std.flatten().tolist() == pytest.approx([63.0, 62.1, 66.7])
    # Table 3: flips only.
    assert (preprocessor.padding, preprocessor.flip_prob) == (0 if table3 else 4, 0.5)
    assert not [module for module in model.modules() if 'Dropout' in type(module).__name__]
    model.init_weights()
    assert table3 != any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for module in (model.student if name in DISTILLATION else model).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert 0 <= module.weight.min() < module.weight.max() < 1 and not module.bias.any()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            # Kaiming normal; 0.2 is over four standard errors for the smallest of them, 432 weights.
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in)**0.5, rel=0.2)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize('name', [name for name in DISTILLATION if name in CIFAR])
def test_cifar_configs_have_the_heads_of_their_method(name):
    assert config_of(name).to_dict()['model']['at_heads'] == METHODS[parts(name)[1]]


def test_the_authors_attention_transfer():
    head, = MODELS.build(config_of('wrn16-1_at-wrn16-2_1xb128_cifar10').model).at_heads
    assert (head.factor, head.form, head.p, head.reduction) == (1000, 'code', 2, 'sum')


# Distillation

@pytest.mark.parametrize('name', DISTILLATION)
def test_a_distillation_config_is_its_students_and_at_most_15_lines(name):
    lines = [line for line in CONFIGS[name].read_text().splitlines() if line.strip()]
    assert len(lines) <= 15
    distillation, student = (config_of(each).to_dict() for each in (name, student_name(name)))
    model = distillation.pop('model')
    assert model['student'] == student.pop('model')
    # Heads that configs share stand beside the model too.
    shared = {key: distillation.pop(key) for key in list(distillation) if key.endswith('_head')}
    assert all(head in model['at_heads'] for head in shared.values())
    assert distillation == student
    assert ('teacher' in model) == bool(parts(name)[2])
    if 'teacher' in model:
        teacher = model['teacher']['model']
        assert parts(teacher)[0] == parts(name)[2] and parts(teacher)[5] == parts(name)[5]
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
    dataset, size = data[parts(name)[5]]
    network = build_network(name)
    assert ROOT / entry['Config'] == CONFIGS[name]
    assert entry['Metadata']['Training Data'] == dataset
    assert entry['Metadata']['Parameters'] == sum(parameter.numel() for parameter in network.parameters())
    assert entry['Metadata']['FLOPs'] == multiply_accumulates(network, size)
    if name in DISTILLATION:
        assert entry['Metadata']['Student'] == student_name(name)
        teacher = config_of(name).model.get('teacher', {}).get('model')
        assert entry['Metadata'].get('Teacher') == teacher
        assert {entry['Metadata']['Student'], teacher} <= {*ENTRIES, None}
        assert entry['Metadata']['Method']


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_what_a_metafile_refers_to_is_there(metafile):
    content = load(metafile)
    for collection in content['Collections']:
        assert (ROOT / collection['README']).is_file()
        assert (ROOT / collection['Code']['URL']).is_file()
    names = {collection['Name'] for collection in content['Collections']}
    assert {entry['In Collection'] for entry in content['Models']} == names
