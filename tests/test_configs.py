import contextlib
import copy
import functools
import re
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, PARAM_SCHEDULERS, TRANSFORMS, DefaultScope, Registry
from mmpretrain import registry as mmpretrain_registry
from torch.utils.flop_counter import FlopCounterMode

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

# The maps of the neck of a network with learned attention.
MAPS = [f'neck.maps.{level}' for level in range(3)]
# Learn to pay attention: levels whose local features are attended, and their widths.
LEVELS = {'att': (2, ), 'att2': (1, 2), 'att3': (0, 1, 2)}
VGG_WIDTHS = (256, 512, 512)
LTPA = [(att, head, compatibility) for att in LEVELS for head in (('', ) if att == 'att' else ('concat', 'indep'))
        for compatibility in ('pc', 'dp')]
# Training set, its classes, and the size of its images.
DATA = dict(cifar10=('CIFAR-10', 10, 32), cifar100=('CIFAR-100', 100, 32), digits=('Digits', 10, 16),
            cub=('CUB-200-2011', 200, 80))

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
        rf'([^_]+)(?:_({methods})(?:-((?:wrn|nin|vgg)[^_]+))?)?_(\d+)xb(\d+)_(\w+)', name).groups()
    return student, method, teacher, int(gpus), int(batch), data


DISTILLATION = [name for name in CONFIGS if parts(name)[1]]
FAMILY = {name: path.parent.name for name, path in CONFIGS.items()}
# Distillation, and the networks that it is between, but for those of "Learn to Pay Attention".
CIFAR = [name for name in CONFIGS if name.endswith('cifar10') and not name.startswith(('vgg', 'rn'))]
LTPA_CONFIGS = [name for name in CONFIGS if FAMILY[name] == 'ltpa' and name.startswith(('vgg', 'rn'))]


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
    learned = [f'wrn16-1_at-vgg-{which}att3-concat-pc' for which in ('', 'reimpl-quarter-')]
    expected = {**table1, **dict.fromkeys([*table2, *learned], 'at'), **table3, **alone}
    found = {name: FAMILY[name] for name in CIFAR}
    assert found == {f'{name}_1xb128_cifar10': folder for name, folder in expected.items()}


def test_every_network_of_learn_to_pay_attention_has_a_config():
    vgg = ['vgg'] + ['-'.join(filter(None, ('vgg', *system, after))) for system in LTPA for after in ('', 'after')]
    reimplementation = [f'vgg-reimpl{which}' for which in ('', '-att3-concat-pc', '-att3-concat-pc-after')]
    resnet = ['rn164'] + [f'rn164-att2-{head}-{c}' for head in ('concat', 'indep') for c in ('pc', 'dp')]
    quarter = [f'vgg-reimpl-quarter-att3-concat-pc{after}_1xb128_cifar10' for after in ('', '-after')]
    assert set(LTPA_CONFIGS) == {
        *quarter, 'vgg-att2-concat-pc_1xb128_cub',
        *(f'{name}_1xb{64 if name in resnet else 128}_{data}' for name in (*vgg, *reimplementation, *resnet)
          for data in ('cifar10', 'cifar100'))}


def ltpa_model(student, classes):
    """The model of a network of "Learn to Pay Attention", by the rule of its name."""
    resnet = student.startswith('rn164')
    words = student.replace('vgg-reimpl', 'reimpl').split('-')
    levels = next((LEVELS[word] for word in words if word in LEVELS), ())
    reimplementation, quarter = 'reimpl' in words, 'quarter' in words
    if resnet:
        widths, width = [(64, 128, 256)[level] for level in levels], 256
        backbone = dict(type='mmat.AttentionResNet', depth=164, out_indices=levels,
                        global_branch='conv' if levels else 'pool')
        head = dict(norm=bool(levels), dropout=0.3 if levels else 0.)
    else:
        widths, width = [VGG_WIDTHS[level] // (4 if quarter else 1) for level in levels], 128 if quarter else 512
        backbone = dict(type='mmat.AttentionVGG', out_indices=levels,
                        arch='reimplementation' if reimplementation else 'authors' if levels else 'plain')
        head = dict(norm=False, dropout=0.) if reimplementation else {}
        if 'after' in words:
            backbone['position'] = 'after_pool'
        if quarter:
            backbone['base_channels'] = 16
        if classes == 200:
            backbone.update(image_size=80, first_pool=5)
    neck = dict(type='mmat.SpatialAttentionNeck', in_channels=widths, global_channels=width,
                compatibility='dp' if 'dp' in words else 'pc')
    if reimplementation:
        neck.update(bias=False, project='local')
    elif levels:
        backbone['average_gradients'] = True
    head.update(
        type=f'mmat.{"Independent" if "indep" in words else "Concat"}ClsHead', num_classes=classes, cal_acc=True,
        topk=(1, ), in_channels=([width] * len(levels) if reimplementation else widths) or [width])
    return dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head, **(dict(neck=neck) if levels else {}))


@pytest.mark.parametrize('name', LTPA_CONFIGS)
def test_the_name_of_a_network_with_learned_attention_tells_its_model(name):
    student, *_, gpus, batch, data = parts(name)
    config = config_of(name).to_dict()
    model = config['model']
    del model['data_preprocessor']
    for module in ('backbone', 'neck', 'head'):
        init_cfg = model.get(module, {}).pop('init_cfg', None)
        # The re-implementation's classifier and the authors' neck; others have theirs by default.
        if module == 'head' and 'reimpl' in name:
            assert init_cfg == dict(type='Xavier', layer='Linear', gain=2**0.5, distribution='uniform')
        elif module == 'neck' and module in model and 'reimpl' not in name and not name.endswith('cub'):
            assert init_cfg == [dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
                                dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0)]
        else:
            assert init_cfg is None

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value

    assert plain(model) == plain(ltpa_model(student, DATA[data][1]))
    assert (gpus, config['train_dataloader']['batch_size']) == (1, batch)


@pytest.mark.parametrize('name', [name for name in LTPA_CONFIGS if not name.endswith('cub')])
def test_learn_to_pay_attention_configs_have_the_recipe_of_their_source(name):
    config = config_of(name)
    data = parts(name)[5]
    for loader, split in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        assert config[f'{loader}_dataloader'].dataset == dict(
            type=f'mmat.{data.upper()}', data_root=f'data/{data}', split=split)
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
    if name.startswith('rn164'):
        drops = dict(type='MultiStepLR', milestones=[60, 120, 160], gamma=0.2)
        recipe = ({**optimizer, 'nesterov': True}, drops, 200, 1)
        padding, mode, drop_last = 4, 'reflect', True
    elif 'reimpl' in name:
        # An epoch of theirs is three passes over the data, and so three of ours.
        recipe = (optimizer, dict(type='StepLR', step_size=75, gamma=0.5), 900, 3)
        padding, mode, drop_last = 4, 'constant', False
    else:
        recipe = ({**optimizer, 'lr': 1.0}, dict(type='StepLR', step_size=25, gamma=0.5), 300, 1)
        padding, mode, drop_last = 0, 'reflect', True
    scheduler = dict(config.param_scheduler)
    assert scheduler.pop('by_epoch') is True and config.train_cfg.by_epoch is True
    length = config.train_cfg.max_epochs, config.train_cfg.val_interval
    assert (config.optim_wrapper.optimizer, scheduler, *length) == recipe
    assert bool(config.train_dataloader.get('drop_last')) == drop_last
    preprocessor = MODELS.build(config.model.data_preprocessor)
    assert (preprocessor.padding, preprocessor.padding_mode, preprocessor.flip_prob) == (padding, mode, 0.5)
    mean, std = ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7]) if data == 'cifar10' else (
        [255 * each for each in (0.5071, 0.4867, 0.4408)], [255 * each for each in (0.2675, 0.2565, 0.2761)])
    assert preprocessor.mean.flatten().tolist() == pytest.approx(mean)
    assert preprocessor.std.flatten().tolist() == pytest.approx(std)


def test_cub_is_fine_tuned_as_the_authors_do():
    config = config_of('vgg-att2-concat-pc_1xb128_cub')
    assert config.optim_wrapper == dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
    assert config.load_from == 'work_dirs/vgg-att2-concat-pc_1xb128_cifar100'
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    schedulers = [PARAM_SCHEDULERS.build({**scheduler, 'optimizer': optimizer}) for scheduler in config.param_scheduler]
    rates = []
    for _ in range(config.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    expected = [0.1, 0.2, 0.4, *(0.4 / 2**step for step in range(1, 9))]
    assert rates[::30] == pytest.approx(expected) and len(rates) == 320
    for loader, split in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        dataset = config[f'{loader}_dataloader'].dataset
        assert (dataset.type, dataset.data_root, dataset.split) == ('mmat.CUB', 'data/CUB_200_2011', split)
        steps = [TRANSFORMS.build(step) for step in dataset.pipeline]
        results = dict(img=np.zeros((300, 400, 3), np.uint8), bbox=[10., 20., 200., 100.], gt_label=3)
        for step in steps[1:]:
            results = step(results)
        assert results['inputs'].shape == (3, 80, 80)


@pytest.mark.parametrize('name', [name for name in CONFIGS if FAMILY[name] != 'ltpa'])
def test_the_name_tells_what_is_in_it(name):
    student, method, _, gpus, batch, data = parts(name)
    config = config_of(name)
    assert (gpus, config.train_dataloader.batch_size) == (1, batch)
    assert config.train_dataloader.dataset.type.lower() == f'mmat.{data}'
    if student.startswith('vgg'):
        return  # its own config's test has the rest
    backbone = (config.model.student if method else config.model).backbone
    if student.startswith('wrn'):
        depth, width = re.fullmatch(r'wrn(\d+)-(\d+)', student).groups()
        assert (backbone.depth, backbone.widen_factor) == (int(depth), int(width))
    else:
        arch, nobn = re.fullmatch(r'nin-(thin|wide)(-nobn)?', student).groups()
        assert backbone.arch == arch
        assert (backbone.get('norm_cfg', 'BN'), backbone.get('relu_before_pool', True)) == \
            ((None, False) if nobn else ('BN', True))


# Building

def cheaply(name):
    """Shapes without values, where no value is needed: networks of 20 million weights take a second each."""
    return torch.device('meta') if FAMILY[name] == 'ltpa' else contextlib.nullcontext()


@pytest.mark.parametrize('scope', ['mmat', 'mmpretrain', 'mmengine'])
@every_config
def test_it_builds_under_any_scope(name, scope):
    config = config_of(name)
    with DefaultScope.overwrite_default_scope(scope), cheaply(name):
        model = MODELS.build(config.model)
        METRICS.build(config.val_evaluator)
        for hook in (*config.default_hooks.values(), *config.get('custom_hooks', [])):
            HOOKS.build(hook)
        if 'digits' in name:
            assert len(DATASETS.build(config.train_dataloader.dataset)) > 0
    assert isinstance(model, Distiller) == (name in DISTILLATION)


@every_config
def test_it_builds_with_mmpretrains_get_model(name):
    _, classes, size = DATA[parts(name)[5]]
    with cheaply(name):
        assert mmpretrain.get_model(config_of(name))(torch.zeros(1, 3, size, size)).shape == (1, classes)


@every_config
def test_it_is_found_by_its_name(name):
    assert name in mmat.list_models()
    _, classes, size = DATA[parts(name)[5]]
    with cheaply(name):
        assert mmat.get_model(name)(torch.zeros(1, 3, size, size)).shape == (1, classes)


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
    _, method, teacher, *_ = parts(name)
    expected = METHODS[method]
    if teacher and teacher.startswith('vgg'):
        expected = [{**AT, 'pairs': list(enumerate(MAPS)), 'weight': 100}]
    assert config_of(name).to_dict()['model']['at_heads'] == expected


def test_learned_attention_is_transferred_to_learned_attention():
    name = 'vgg-reimpl-quarter-att3-concat-pc_at-vgg-reimpl-att3-concat-pc_1xb128_cifar10'
    assert config_of(name).to_dict()['model']['at_heads'] == [
        {**AT, 'pairs': list(zip(MAPS, MAPS)), 'weight': 100}]


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
    """Of all products of matrices, convolutions and sums under attention among them, for one image."""
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size, device=device))
    return counter.get_total_flops() // 2


def test_the_metafiles_list_the_configs():
    assert set(ENTRIES) == set(CONFIGS)
    assert sum(len(load(metafile)['Models']) for metafile in METAFILES) == len(CONFIGS)
    assert sorted(ROOT / path for path in load(ROOT / 'model-index.yml')['Import']) == METAFILES


@every_config
def test_a_metafile_entry_tells_the_truth(name):
    entry = ENTRIES[name]
    dataset, _, size = DATA[parts(name)[5]]
    with cheaply(name):
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
