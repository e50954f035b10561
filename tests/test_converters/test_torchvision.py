"""Comparison with torchvision's networks."""
import pytest
import torch
import torch.nn as nn
import torchvision
from random_weights import images, resnet_config

from mmat.converters import convert_torchvision
from mmat.errors import CheckpointError
from mmat.models import build_network
from mmat.utils.checkpoint import load_state

RESNETS = [
    ('resnet18', dict(depth=18, head_width=512)),
    ('resnet34', dict(depth=34, head_width=512)),
    ('resnet50', dict(depth=50, head_width=2048)),
    ('wide_resnet50_2', dict(depth=50, head_width=2048, base_channels=128, expansion=2)),
]
VGGS = [(f'vgg{depth}{suffix}', dict(depth=depth, norm_cfg=norm)) for depth in (11, 13, 16, 19)
        for suffix, norm in (('', None), ('_bn', dict(type='BN')))]


def config(name, classes, options):
    if 'resnet' in name:
        return resnet_config(classes, **{**dict(stem_channels=64, base_channels=64), **options})
    return dict(type='mmpretrain.ImageClassifier', head=dict(type='mmpretrain.ClsHead'),
                backbone=dict(type='mmpretrain.VGG', num_classes=classes, **options))


def both(name, options, classes=5, **kwargs):
    """torchvision's network on the meta device, and mmpretrain's (a VGG on the meta device)."""
    with torch.device('meta'):
        source = torchvision.models.get_model(name, num_classes=classes, **kwargs)
    # mmpretrain's ResNet cannot be built on the meta device.
    with torch.device('cpu' if 'resnet' in name else 'meta'):
        return source, build_network(config(name, classes, options))


def check_outputs(source, network):
    source, network = (each.to_empty(device='cpu').double().eval() for each in (source, network))
    torch.manual_seed(0)
    # Random values, also for running statistics, reveal any mix-up.
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, mean in ((module.weight, 1), (module.bias, 0), (module.running_mean, 0)):
                nn.init.normal_(value, mean, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            module.num_batches_tracked.zero_()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    load_state(network, convert_torchvision(source.state_dict()), 'converted')
    x = images(32)
    with torch.no_grad():
        expected = source(x)
        torch.testing.assert_close(network(x), expected, rtol=1e-8, atol=1e-8)
    assert expected.std() > 0.1


@pytest.mark.parametrize('name, options, kwargs', [
    (*RESNETS[0], {}), (*RESNETS[1], {}),
    # Bottlenecks of a quarter of their width inside.
    ('resnet50', dict(depth=50, head_width=2048, base_channels=16, expansion=16), dict(width_per_group=16)),
])
def test_equal_outputs_of_resnets(name, options, kwargs):
    check_outputs(*both(name, options, **kwargs))


@pytest.mark.parametrize('name, options', [VGGS[0], VGGS[3], VGGS[5], VGGS[6]])
def test_equal_outputs_of_vggs(name, options):
    """On images of 32x32, with thin classifiers: the original ones take two gigabytes in float64."""
    def thin():
        return nn.Sequential(
            nn.Linear(512, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))

    source, network = both(name, options)
    source.avgpool, source.classifier, network.backbone.classifier = nn.Identity(), thin(), thin()
    check_outputs(source, network)


@pytest.mark.parametrize('name, options', RESNETS + VGGS)
def test_whole_networks_have_the_names_and_shapes_of_mmpretrains(name, options):
    source, network = both(name, options, classes=1000)
    converted = convert_torchvision(source.state_dict())
    assert {key: value.shape for key, value in converted.items()} == \
        {key: value.shape for key, value in network.state_dict().items()}


@pytest.fixture(scope='module')
def resnet18():
    with torch.device('meta'):
        return torchvision.models.resnet18().state_dict()


def test_weights_trained_on_several_gpus_or_by_an_old_torch(resnet18):
    expected = convert_torchvision(resnet18)
    assert convert_torchvision({f'module.{key}': value for key, value in resnet18.items()}).keys() == expected.keys()
    old = convert_torchvision({key: value for key, value in resnet18.items() if 'num_batches' not in key})
    assert old.keys() == {key for key in expected if 'num_batches' not in key}


@pytest.mark.parametrize('change, message', [
    (lambda state: state.pop('layer2.0.downsample.1.running_var'), r' 1 .* missing \(layer2\.0\.downsample\.1\.run'),
    (lambda state: state.update({'conv2.weight': torch.zeros(1)}), r' 1 .* unexpected \(conv2\.weight\)'),
    (lambda state: state.clear(), r' \d+ .* missing \(features\.0\.weight, .*, \.\.\.\)'),
])
def test_other_weights_are_refused(resnet18, change, message):
    state = dict(resnet18)
    change(state)
    with pytest.raises(CheckpointError, match=f'torchvision.*{message}'):
        convert_torchvision(state)
