import pytest
import timm
import torch
import torch.nn as nn
from mmpretrain.models import VGG, MobileNetV2, ResNet, ShuffleNetV2, TIMMBackbone, VisionTransformer

from mmat.models.stages import stage_paths
from mmat.models.taps import tap


def holding(network, name='backbone'):
    """A model around a network."""
    model = nn.Module()
    model.add_module(name, network)
    return model


@pytest.mark.parametrize('attribute, value, expected', [
    ('stages', nn.ModuleList([nn.Identity(), nn.Identity()]), ['stages.0', 'stages.1']),
    ('layers', nn.Sequential(nn.Identity(), nn.Identity()), ['layers.0', 'layers.1']),
    ('res_layers', ['layer1', 'layer2'], ['layer1', 'layer2']),
    ('stage_names', ('group0', 'group1'), ['group0', 'group1']),
    # mmpretrain's `stages` may be a tuple of numbers, which names nothing.
    ('stages', (3, 4, 6, 3), []),
    ('stages', [], []),
    # A description in timm's way that names what is not there.
    ('feature_info', [dict(module='stage1')], []),
    ('feature_info', [dict(num_chs=3)], []),
])
def test_stage_paths(attribute, value, expected):
    backbone = nn.Module()
    setattr(backbone, attribute, value)
    assert stage_paths(holding(backbone)) == [f'backbone.{name}' for name in expected]


def test_a_model_without_a_backbone_has_none():
    assert stage_paths(nn.Linear(1, 1)) == []


ARCH = dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=8)
LAYERS = [f'layer{i}' for i in range(1, 8)]


@pytest.mark.parametrize('backbone, names', [
    (lambda: ResNet(18, stem_channels=8, base_channels=8), LAYERS[:4]),
    (lambda: VisionTransformer(ARCH, img_size=32), ['layers.0', 'layers.1', 'layers.2']),
    (lambda: MobileNetV2(widen_factor=0.1), [*LAYERS, 'conv2']),
    (lambda: ShuffleNetV2(widen_factor=0.5), ['layers.0', 'layers.1', 'layers.2', 'layers.3']),
])
def test_stages_of_mmpretrains_backbones(backbone, names):
    assert stage_paths(holding(backbone())) == [f'backbone.{name}' for name in names]


@pytest.mark.parametrize('norm_cfg', [None, dict(type='BN')])
def test_a_stage_of_vgg_is_what_mmpretrain_gives_of_it(norm_cfg):
    backbone = VGG(11, norm_cfg=norm_cfg, out_indices=(0, 1, 2, 3, 4))
    model = holding(backbone)
    paths = stage_paths(model)
    # One, one and three times two convolutions, each followed by max-pooling.
    assert paths == [f'backbone.features.{index}' for index in (1, 3, 6, 9, 12)]
    model.eval()
    with tap(model, paths) as taps:
        outputs = model.backbone(torch.randn(2, 3, 32, 32))
    assert all(taps[path].equal(output) for path, output in zip(paths, outputs))


@pytest.mark.parametrize('features_only', [False, True])
@pytest.mark.parametrize('name', ['resnet10t', 'vit_tiny_patch16_224'])
def test_the_stages_of_a_timm_network_are_its_feature_info(name, features_only):
    backbone = TIMMBackbone(name, features_only=features_only)
    model = holding(backbone)
    paths = stage_paths(model)
    modules = ['act1', *LAYERS[:4]] if 'resnet' in name else [f'blocks.{i}' for i in range(12)]
    assert [path.rpartition('timm_model.')[2].removeprefix('model.') for path in paths] == modules
    assert {*paths} <= {path for path, _ in model.named_modules()}


def test_the_stages_of_a_timm_classifier():
    model = holding(timm.create_model('resnet10t'), 'model')
    assert stage_paths(model) == [f'model.{name}' for name in ('act1', 'layer1', 'layer2', 'layer3', 'layer4')]


def test_names_with_dots_are_found_where_timm_writes_underscores():
    # Of a network cut down to its features, blocks.1 is called blocks_1.
    network = timm.create_model('tf_mobilenetv3_small_minimal_100', features_only=True)
    names = [path.removeprefix('model.') for path in stage_paths(holding(network, 'model'))]
    assert len(names) == len(network.feature_info.module_name())
    assert all(name in dict(network.named_modules()) for name in names)
