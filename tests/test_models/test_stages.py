import pytest
import timm
import torch
import torch.nn as nn
from mmpretrain.models import VGG, MobileNetV2, ResNet, ShuffleNetV2, TIMMBackbone, VisionTransformer

from mmat.models import build_network
from mmat.models.build_checks import output_shapes
from mmat.models.stages import stage_paths
from mmat.models.taps import tap


def holding(network, name='backbone'):
    """Return a model that contains a network."""
    model = nn.Module()
    model.add_module(name, network)
    return model


@pytest.mark.parametrize('attribute, value, expected', [
    ('stages', nn.ModuleList([nn.Identity(), nn.Identity()]), ['stages.0', 'stages.1']),
    ('layers', nn.Sequential(nn.Identity(), nn.Identity()), ['layers.0', 'layers.1']),
    ('res_layers', ['layer1', 'layer2'], ['layer1', 'layer2']),
    ('stage_names', ('group0', 'group1'), ['group0', 'group1']),
    # mmpretrain's `stages` may be a tuple of numbers.
    ('stages', (3, 4, 6, 3), []),
    ('stages', [], []),
    # timm's `feature_info` with unknown modules, or without modules.
    ('feature_info', [dict(module='stage1')], []),
    ('feature_info', [dict(num_chs=3)], []),
])
def test_stage_paths(attribute, value, expected):
    backbone = nn.Module()
    setattr(backbone, attribute, value)
    assert stage_paths(holding(backbone)) == [f'backbone.{name}' for name in expected]


def test_a_model_without_a_backbone_has_no_stages():
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
def test_stages_of_vgg_are_the_outputs_of_mmpretrain(norm_cfg):
    backbone = VGG(11, norm_cfg=norm_cfg, out_indices=(0, 1, 2, 3, 4))
    model = holding(backbone)
    paths = stage_paths(model)
    # 1, 1, 2, 2 and 2 convolutions, each group followed by max-pooling.
    assert paths == [f'backbone.features.{index}' for index in (1, 3, 6, 9, 12)]
    model.eval()
    with tap(model, paths) as taps:
        outputs = model.backbone(torch.randn(2, 3, 32, 32))
    assert all(taps[path].equal(output) for path, output in zip(paths, outputs))


@pytest.mark.parametrize('features_only', [False, True])
@pytest.mark.parametrize('name', ['resnet10t', 'vit_tiny_patch16_224'])
def test_stages_of_a_timm_backbone_are_its_feature_info_without_the_stem(name, features_only):
    backbone = TIMMBackbone(name, features_only=features_only)
    model = holding(backbone)
    paths = stage_paths(model)
    modules = LAYERS[:4] if 'resnet' in name else [f'blocks.{i}' for i in range(12)]
    assert [path.rpartition('timm_model.')[2].removeprefix('model.') for path in paths] == modules
    assert {*paths} <= {path for path, _ in model.named_modules()}


@pytest.mark.parametrize('name, paths', [
    # The stems are act1, stem.conv, stem, features.norm0 and bn1.
    ('resnet18', ['layer1', 'layer2', 'layer3', 'layer4']),
    ('resnetv2_50', ['stages.0', 'stages.1', 'stages.2', 'stages.3']),
    ('regnetx_002', ['s1', 's2', 's3', 's4']),
    ('densenet121', ['features.denseblock1', 'features.denseblock2', 'features.denseblock3', 'features.norm5']),
    ('mobilenetv3_small_100', ['blocks.0', 'blocks.1', 'blocks.3', 'blocks.5']),
    # These have no stem, or one that is no entry of feature_info.
    ('mobilenetv3_large_100', ['blocks.0', 'blocks.1', 'blocks.2', 'blocks.4', 'blocks.6']),
    ('efficientnet_b0', ['blocks.0', 'blocks.1', 'blocks.2', 'blocks.4', 'blocks.6']),
    ('vgg11_bn', ['features.2', 'features.6', 'features.13', 'features.20', 'features.27', 'features.28']),
    ('convnext_tiny', ['stages.0', 'stages.1', 'stages.2', 'stages.3']),
    ('swin_tiny_patch4_window7_224', ['layers.0', 'layers.1', 'layers.2', 'layers.3']),
    ('vit_tiny_patch16_224', [f'blocks.{i}' for i in range(12)]),
])
def test_stages_of_a_timm_classifier(name, paths):
    with torch.device('meta'):
        model = holding(timm.create_model(name), 'model')
    assert stage_paths(model) == [f'model.{path}' for path in paths]


@pytest.mark.parametrize('out_indices, paths', [
    ((1, 2, 3, 4), ['layer1', 'layer2', 'layer3', 'layer4']),
    ((2, 4), ['layer2', 'layer4']),
    ((0, 3), ['layer3']),
    ((0, ), ['act1']),
])
def test_stages_of_a_timm_backbone_with_some_features(out_indices, paths):
    with torch.device('meta'):
        network = timm.create_model('resnet18', features_only=True, out_indices=out_indices)
    assert stage_paths(holding(network)) == [f'backbone.{path}' for path in paths]


def test_stages_of_mmpretrains_and_timms_resnet18_have_equal_shapes():
    configs = [
        dict(type='mmpretrain.ImageClassifier', backbone=dict(type='mmpretrain.ResNet', depth=18)),
        dict(type='mmpretrain.TimmClassifier', model_name='resnet18'),
    ]
    shapes = []
    for config in configs:
        network = build_network(config).to('meta')
        paths = stage_paths(network)
        assert len(paths) == 4
        shapes.append(output_shapes(network, dict(enumerate(paths)), 'model', (224, 224)))
    assert shapes[0] == shapes[1] == {
        0: (1, 64, 56, 56), 1: (1, 128, 28, 28), 2: (1, 256, 14, 14), 3: (1, 512, 7, 7)}


@pytest.mark.parametrize('name, paths', [
    # A network built with features_only may name stages.1 stages_1, but feature_info does not.
    ('convnext_tiny', ['stages_0', 'stages_1', 'stages_2', 'stages_3']),
    ('resnetv2_50', ['stages_0', 'stages_1', 'stages_2', 'stages_3']),
    ('mobilenetv3_small_100', ['blocks.0', 'blocks.1', 'blocks.3', 'blocks.5']),
])
def test_stages_of_a_timm_network_built_with_features_only(name, paths):
    with torch.device('meta'):
        network = timm.create_model(name, features_only=True)
    assert stage_paths(holding(network, 'model')) == [f'model.{path}' for path in paths]
    assert all(path in dict(network.named_modules()) for path in paths)
