"""The CIFAR-100 pairs of RepDistiller's benchmark, against its code, written out here."""
import functools
import math
import re

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
import zoo_table
from mmengine.fileio import load
from zoo_table import ROOT, learning_rates

from mmat.datasets import BatchedSamples
from mmat.models import build_network
from mmat.models.taps import tap
from mmat.registry import MODELS

# Options of the backbone, channels before the classifier, and parameters of the network.
NETWORKS = {
    'resnet20': (dict(depth=20, stem_channels=16, base_channels=16), 64, 278324),
    'resnet32': (dict(depth=32, stem_channels=16, base_channels=16), 64, 472756),
    'resnet56': (dict(depth=56, stem_channels=16, base_channels=16), 64, 861620),
    'resnet110': (dict(depth=110, stem_channels=16, base_channels=16), 64, 1736564),
    'resnet8x4': (dict(depth=8, stem_channels=32, base_channels=64), 256, 1233540),
    'resnet32x4': (dict(depth=32, stem_channels=32, base_channels=64), 256, 7433860),
    'vgg8': (dict(depth=8), 512, 3965028),
    'vgg13': (dict(depth=13), 512, 9462180),
    'wrn16-2': (dict(depth=16, widen_factor=2), 128, 703284),
    'wrn40-1': (dict(depth=40, widen_factor=1), 64, 569780),
    'wrn40-2': (dict(depth=40, widen_factor=2), 128, 2255156),
}
DEFAULTS = dict(stem_channels=16, base_channels=16)
PAIRS = [('resnet20', 'resnet56'), ('resnet32', 'resnet110'), ('resnet8x4', 'resnet32x4'), ('vgg8', 'vgg13'),
         ('wrn16-2', 'wrn40-2'), ('wrn40-1', 'wrn40-2')]
BACKBONES = dict(cifar_resnet='CIFARResNet', cifar_vgg='CIFARVGG', wide_resnet='WideResNet')
# One pair of each family, and its teacher.
ONE_EACH = dict(cifar_resnet='resnet20_{}-resnet56', cifar_vgg='vgg8_{}-vgg13', wide_resnet='wrn16-2_{}-wrn40-2')
TEACHERS = dict(cifar_resnet='resnet56', cifar_vgg='vgg13', wide_resnet='wrn40-2')
# The layers that the benchmark compares, and their sizes for an image of 32 pixels.
LAYERS = dict(
    cifar_resnet={'backbone.layer1': 32, 'backbone.layer2': 16, 'backbone.layer3': 8},
    cifar_vgg={'backbone.block1': 16, 'backbone.block2': 8, 'backbone.block3': 4, 'backbone.block4': 4},
    wide_resnet={'backbone.group0': 32, 'backbone.group1': 16, 'backbone.group2': 8})
MEAN, STD = ([[[value]] for value in values] for values in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)))


def family(network):
    return {'res': 'cifar_resnet', 'vgg': 'cifar_vgg', 'wrn': 'wide_resnet'}[network[:3]]


def path_of(name):
    """Return the config file of a network, or of a pair ``student_method-teacher``."""
    _, _, method = re.fullmatch(r'([^_]+)(_(at|kd)-.+)?', name).groups()
    return ROOT / 'configs' / (method or family(name)) / f'{name}_1xb64_cifar100.py'


def config_of(name):
    return zoo_table.config_of(path_of(name).stem)


DISTILLATION = [f'{student}_{method}-{teacher}' for method in ('at', 'kd') for student, teacher in PAIRS]
every_network = pytest.mark.parametrize('name', NETWORKS)


def test_the_configs_are_these():
    found = {path for folder in ('at', 'kd', *BACKBONES)
             for path in (ROOT / 'configs' / folder).glob('*_1xb64_cifar100.py')}
    assert found == {path_of(name) for name in (*NETWORKS, *DISTILLATION)}


# Networks

@every_network
def test_the_name_describes_the_network(name):
    options, channels, parameters = NETWORKS[name]
    config = config_of(name).model
    assert config.backbone.type == f'mmat.{BACKBONES[family(name)]}'
    # Options that are left out are defaults, which the tests of the backbones check.
    assert {**DEFAULTS, **{key: value for key, value in config.backbone.items() if key in options}}.items() >= \
        options.items()
    model = build_network(config)
    assert tuple(model.head.fc.weight.shape) == (100, channels)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert not [module for module in model.modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize('name', ['resnet20', 'resnet8x4', 'vgg8', 'wrn16-2', 'wrn40-1'])
def test_networks_are_initialized_as_in_the_benchmark(name):
    torch.manual_seed(0)
    model = build_network(config_of(name).model)
    model.init_weights()
    for key, module in model.backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1]))
            # Five standard errors.
            assert abs(module.weight.std().item() / std - 1) < 5 / math.sqrt(2 * module.weight.numel()), key
            assert module.weight.abs().max() > 2 * std, key
            assert module.bias is None or not module.bias.any(), key
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all(), key
    fc = model.head.fc
    if name.startswith('vgg'):
        assert abs(fc.weight.std().item() / 0.01 - 1) < 0.02 and fc.weight.abs().max() > 0.03
        assert not fc.bias.any()
    else:
        # torch's default, uniform within 1 / sqrt(fan in). The bias of a WRN is 0.
        bound = 1 / math.sqrt(fc.in_features)
        assert 0.99 * bound < fc.weight.abs().max() <= bound
        assert abs(fc.weight.std().item() / bound - 1 / math.sqrt(3)) < 0.02
        assert fc.bias.any() != name.startswith('wrn') and fc.bias.abs().max() <= bound


# Recipe

@every_network
def test_the_recipe(name):
    config = config_of(name)
    loader = config.train_dataloader
    assert (loader.batch_size, loader.sampler) == (64, dict(type='DefaultSampler', shuffle=True))
    assert not loader.get('drop_last', False)
    for loader, split in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        assert config[f'{loader}_dataloader'].dataset == dict(
            type='mmat.CIFAR100', data_root='data/cifar100', split=split)
    # No Nesterov; weight decay on all parameters.
    assert config.optim_wrapper == dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
    assert (config.train_cfg.by_epoch, config.train_cfg.val_interval) == (True, 1)

    # The benchmark counts epochs from 1 and divides by ten after each of these.
    expected = [0.05 * 0.1 ** sum(epoch > drop for drop in (150, 180, 210)) for epoch in range(1, 241)]
    assert learning_rates(config) == pytest.approx(expected, rel=1e-9)


@every_network
def test_all_networks_have_the_same_preprocessor(name):
    assert config_of(name).model.data_preprocessor == config_of('resnet20').model.data_preprocessor


def test_images_are_zero_padded_cropped_flipped_and_normalized():
    preprocessor = MODELS.build(config_of('resnet20').model.data_preprocessor)
    images = torch.randint(0, 256, (200, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def normalize(image):
        return (image / 255 - torch.tensor(MEAN)) / torch.tensor(STD)

    # No cropping in testing.
    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    close(preprocessor(dict(inputs=images))['inputs'], normalize(images))
    torch.manual_seed(0)
    tops, lefts, flips = preprocessor.draw(len(images))
    assert set(tops.tolist()) == set(lefts.tolist()) == set(range(9))
    # Half of 200, within five standard deviations.
    assert 64 < flips.sum() < 136
    torch.manual_seed(0)
    augmented = preprocessor(dict(inputs=images), training=True)['inputs']
    for image, found, top, left, flip in zip(images, augmented, tops, lefts, flips):
        window = F.pad(image, (4, 4, 4, 4))[:, top:top + 32, left:left + 32]
        close(found, normalize(window.flip(2) if flip else window))


# Distillation

@pytest.mark.parametrize('name', DISTILLATION)
def test_a_distillation_config_extends_its_student_in_at_most_15_lines(name):
    student, method, teacher = re.fullmatch(r'(.+)_(at|kd)-(.+)', name).groups()
    assert len([line for line in path_of(name).read_text().splitlines() if line.strip()]) <= 15
    distillation, alone = config_of(name).to_dict(), config_of(student).to_dict()
    model = distillation.pop('model')
    if method == 'kd':
        assert [distillation.pop('kd_head')] == model['at_heads']
    assert model['student'] == alone.pop('model')
    assert distillation == alone
    assert model['teacher'] == dict(
        model=f'{teacher}_1xb64_cifar100', checkpoint=f'work_dirs/{teacher}_1xb64_cifar100')


@pytest.mark.parametrize('name', DISTILLATION)
def test_pairs_of_a_family_have_the_same_heads(name):
    student, method, _ = re.fullmatch(r'(.+)_(at|kd)-(.+)', name).groups()
    assert config_of(name).model.at_heads == config_of(ONE_EACH[family(student)].format(method)).model.at_heads


# Half the image size is faster; the last maps of VGG are 2x2 then.
@pytest.mark.parametrize('of, size', [('cifar_resnet', 8), ('cifar_vgg', 16), ('wide_resnet', 8)])
@pytest.mark.parametrize('method', ['at', 'kd'])
def test_the_loss_is_the_benchmarks(of, size, method):
    name = ONE_EACH[of].format(method)
    torch.manual_seed(0)
    teacher = build_network(config_of(TEACHERS[of]).model)
    teacher.init_weights()
    distiller = MODELS.build({**config_of(name).model.to_dict(), 'teacher': teacher}).double()
    distiller.init_weights()
    # The initial classifier of VGG predicts almost uniform probabilities.
    for network in (distiller.student, teacher):
        nn.init.normal_(network.head.fc.weight, std=0.1)
    labels = torch.tensor([3, 98])
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    batch = distiller.eval().data_preprocessor(dict(inputs=images, data_samples=BatchedSamples(labels)))
    total, log = distiller.parse_losses(distiller(**batch, mode='loss'))

    layers = list(LAYERS[of])
    outputs = []
    with torch.no_grad():
        for network in (distiller.student, teacher):
            with tap(network, layers) as features:
                outputs.append((network(batch['inputs']), features))
    (scores, features), (teacher_scores, teacher_features) = outputs
    expected = F.cross_entropy(scores, labels)
    if method == 'kd':
        p, q = (F.log_softmax(each / 4, 1) for each in (teacher_scores, scores))
        divergence = 4**2 * (p.exp() * (p - q)).sum() / 2
        assert divergence > 1e-3
        expected = 0.1 * expected + 0.9 * divergence
    else:
        assert sum(key.startswith('loss_at') for key in log) == len(layers)
        for layer in layers:
            one, other = (F.normalize(each[layer].square().mean(1).flatten(1)) for each in (features, teacher_features))
            distance = (one - other).square().mean()
            # Every layer contributes.
            assert 1000 * distance > 1e-3
            expected = expected + 1000 * distance
    assert total.item() == pytest.approx(expected.item(), rel=1e-7)


@pytest.mark.parametrize('name', ['resnet8x4', 'resnet20', 'vgg8', 'vgg13', 'wrn16-2', 'wrn40-1'])
def test_compared_layers_have_the_benchmarks_size(name):
    sizes = LAYERS[family(name)]
    model = build_network(config_of(name).model).eval()
    with torch.no_grad(), tap(model, list(sizes)) as taps:
        model(torch.zeros(1, 3, 32, 32))
    assert {layer: tuple(taps[layer].shape[2:]) for layer in sizes} == {
        layer: (side, side) for layer, side in sizes.items()}


# Metafiles

@pytest.mark.parametrize('folder', ['cifar_resnet', 'cifar_vgg'])
def test_metafiles_have_the_benchmarks_parameters(folder):
    entries = {entry['Name']: entry for entry in load(ROOT / 'configs' / folder / 'metafile.yml')['Models']}
    assert set(entries) == {f'{name}_1xb64_cifar100' for name in NETWORKS if family(name) == folder}
    for name, entry in entries.items():
        assert entry['Metadata']['Parameters'] == NETWORKS[name.split('_')[0]][2]
