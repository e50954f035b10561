"""ImageNet: mmpretrain's networks, and attention transfer between them."""
import mmpretrain
import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS, TRANSFORMS
from mmpretrain.apis.model import ModelHub
from zoo_table import AT, CONFIGS, ENTRIES, cheaply, config_of, learning_rates, parts, plain

from mmat.models import ActivationATHead, build_network

# Multiply-accumulates at 224 x 224 and parameters of the reference, which counts the inputs of BN twice.
EXACT = {
    'vgg11': (7_609_090_048, 132_863_336), 'vgg11bn': (7_623_942_144, 132_868_840),
    'vgg13': (11_308_466_176, 133_047_848), 'vgg13bn': (11_332_952_064, 133_053_736),
    'vgg16': (15_470_264_320, 138_357_544), 'vgg16bn': (15_497_359_360, 138_365_992),
    'vgg19': (19_632_062_464, 143_667_240), 'vgg19bn': (19_661_766_656, 143_678_248),
}
ALONE = [f'{name}_8xb32_in1k' for name in (*EXACT, 'resnet18', 'resnet34', 'wide-resnet50-2', 'mobilenet-v2')]
ALONE += ['shufflenet-v2-1x_16xb64_in1k']
# Config -> pairs of student and teacher layers.
FOUR, FIVE = [(i, i) for i in range(4)], [(i, i) for i in range(5)]
TRANSFER = {
    'resnet18_at-resnet34_8xb32_in1k': FOUR,
    'resnet18_at-group23-resnet34_8xb32_in1k': FOUR[2:],
    'vgg11bn_at-vgg19bn_8xb32_in1k': FIVE,
    'vgg13bn_at-vgg19bn_8xb32_in1k': FIVE,
    'vgg11_at-vgg19_8xb32_in1k': FIVE,
    'mobilenet-v2_at-vit-base-p16_8xb32_in1k': [(4, 7), (6, 11)],
    'shufflenet-v2-1x_at-timm-resnet50_16xb64_in1k': [(0, 1), (1, 2), (2, 3)],
}


def test_the_configs_are_these():
    assert {name for name in CONFIGS if name.endswith('in1k')} - {'affine-resnet18_8xb32_in1k'} == {
        *ALONE, *TRANSFER, 'resnet18_kd-resnet34_8xb32_in1k'}


@pytest.mark.parametrize('name', EXACT)
def test_vgg_has_the_exact_size_of_the_reference(name):
    macs, parameters = EXACT[name]
    entry = ENTRIES[f'{name}_8xb32_in1k']['Metadata']
    normalised = []
    with cheaply(f'{name}_8xb32_in1k'), torch.no_grad():
        model = build_network(f'{name}_8xb32_in1k')
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda module, args, output: normalised.append(output.numel()))
        model.eval()
        model(torch.zeros(1, 3, 224, 224))
    assert len(normalised) == (int(name[3:5]) - 3 if name.endswith('bn') else 0)
    assert entry['FLOPs'] + 2 * sum(normalised) == macs
    assert entry['Parameters'] == parameters


@pytest.mark.parametrize('name', ALONE)
def test_networks_are_mmpretrains(name):
    theirs = {'wide-resnet50-2_8xb32_in1k': 'wide-resnet50_3rdparty_8xb32_in1k'}.get(name, name)
    hub = ModelHub.get(theirs)
    with cheaply(name):
        ours, reference = build_network(name), mmpretrain.get_model(hub.config)
    assert _shapes(ours) == _shapes(reference)
    assert str(ours.backbone) == str(reference.backbone)
    entry = ENTRIES[name]
    if name.startswith('wide'):
        assert 'Weights' not in entry and 'Results' not in entry
        return
    # Weights and accuracy are mmpretrain's.
    assert entry['Weights'] == hub.weights
    assert entry['Results'][0]['Metrics'] == hub.results[0].metrics
    # The recipe too.
    config = config_of(name)
    for key in ('optim_wrapper', 'train_cfg', 'param_scheduler', 'auto_scale_lr'):
        assert plain(config[key]) == plain(hub.config[key]), key
    assert config.train_dataloader.batch_size == hub.config.train_dataloader.batch_size == parts(name)[4]
    assert torch.equal(_statistics(config), _statistics(hub.config))


def _shapes(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _statistics(config):
    preprocessor = {'type': 'mmpretrain.ClsDataPreprocessor', **config.data_preprocessor}
    built = MODELS.build(preprocessor)
    assert built.to_rgb
    return torch.cat([built.mean, built.std])


@pytest.mark.parametrize('name', ['resnet18_8xb32_in1k', 'vgg11_8xb32_in1k'])
def test_images_are_preprocessed_as_in_mmpretrain(name):
    config = config_of(name)
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for loader, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = config[f'{loader}_dataloader'].dataset
        assert (dataset.type, dataset.data_root, dataset.split) == ('mmpretrain.ImageNet', 'data/imagenet', split)
        results = dict(img=picture, gt_label=3)
        for step in dataset.pipeline[1:]:
            results = TRANSFORMS.build(step)(results)
        assert results['inputs'].shape == (3, 224, 224)
    # The center crop of an image with a shorter side of 256.
    from PIL import Image
    resized = np.asarray(Image.fromarray(picture).resize((341, 256), Image.BILINEAR))
    top, left = (256 - 224) // 2, round((341 - 224) / 2)
    assert np.array_equal(results['inputs'].permute(1, 2, 0).numpy(), resized[top:top + 224, left:left + 224])


def test_the_recipe():
    config = config_of('resnet18_at-resnet34_8xb32_in1k')
    assert config.optim_wrapper == dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
    assert learning_rates(config) == pytest.approx([0.1] * 30 + [0.01] * 30 + [1e-3] * 30 + [1e-4] * 10)


@pytest.mark.parametrize('name', TRANSFER)
def test_the_layers_that_are_compared(name):
    config = config_of(name)
    assert config.to_dict()['model']['at_heads'] == [{**AT, 'pairs': TRANSFER[name]}]
    # Both networks have these layers, and the student's maps are as large as the teacher's or half as large.
    teacher = config.model.teacher.model
    if not isinstance(teacher, str):
        teacher.pretrained = False
    networks = []
    with cheaply(name), torch.no_grad():
        for model in (config.model.student, teacher):
            networks.append(build_network(model))
            networks[-1].eval()
    head = ActivationATHead(**{key: value for key, value in config.model.at_heads[0].items() if key != 'type'})
    head.resolve_student(networks[0])
    head.resolve_teacher(networks[1])
    sizes = [_sizes(network, layers) for network, layers in zip(networks, (head.student_paths, head.teacher_paths))]
    for student, teacher in zip(*sizes):
        assert student[0] in (teacher[0], teacher[0] // 2), sizes
    smallest = 7
    assert sizes[0][-1] == (smallest, smallest)


def _sizes(network, layers):
    from mmat.models.taps import tap
    device = next(network.parameters()).device
    with tap(network, layers) as taps, torch.no_grad():
        network(torch.zeros(1, 3, 224, 224, device=device))
    return [tuple(taps[layer].shape[-2:]) for layer in layers]


def test_teachers_have_published_weights():
    from mmat.models.distillers import Teacher
    for name in TRANSFER:
        teacher = Teacher(**config_of(name).model.teacher)
        if 'timm' not in name:
            assert teacher.checkpoint.startswith('https://download.openmmlab.com/mmclassification/v0/')
