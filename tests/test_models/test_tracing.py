"""Every network traces and exports with any number of images."""
import itertools
import warnings

import pytest
import torch
from torch.jit import TracerWarning

from mmat.registry import MODELS

WRN = dict(type='mmat.WideResNet', depth=10, out_indices=(0, 1, 2))
VGG = dict(type='mmat.AttentionVGG', base_channels=8)
SPATIAL = [dict(type='mmat.SpatialAttentionNeck', compatibility=c, normalization=n, project=p)
           for c, n, p in itertools.product(['pc', 'dp'], ['softmax', 'sigmoid'], ['global', 'local'])]
GRID = [dict(type='mmat.GridAttentionNeck', inter_channels=8, normalization=each) for each in ('softmax', 'sigmoid')]
HEADS = [dict(type='mmat.ConcatClsHead'), dict(type='mmat.ConcatClsHead', norm=False),
         dict(type='mmat.IndependentClsHead'), dict(type='mmat.IndependentClsHead', combine='sum')]


def plain(width, neck=True, **backbone):
    parts = dict(backbone=backbone, head=dict(type='mmat.LinearClsHead', num_classes=5, in_channels=width))
    return dict(parts, neck=dict(type='mmpretrain.GlobalAveragePooling')) if neck else parts


def attentive(backbone, widths, neck, head):
    vectors = widths[-1:] * len(widths) if neck.get('project') == 'local' else widths
    return dict(backbone=backbone, neck=dict(neck, in_channels=widths, global_channels=widths[-1]),
                head=dict(head, num_classes=5, in_channels=vectors))


NETWORKS = {
    'wrn': plain(64, type='mmat.WideResNet', depth=10),
    'nin': plain(6, type='mmat.NIN', arch=((4, 4, 4), (5, 5, 5), (6, 6, 6))),
    'nin-nobn': plain(6, type='mmat.NIN', arch=((4, 4, 4), (5, 5, 5), (6, 6, 6)), norm_cfg=None,
                      relu_before_pool=False),
    'cifar-resnet': plain(16, type='mmat.CIFARResNet', depth=8, stem_channels=4, base_channels=4),
    'cifar-vgg': plain(512, type='mmat.CIFARVGG', depth=8),
    'affine-resnet': plain(64, type='mmat.AffineResNet', base_channels=8),
    'attention-vgg': plain(64, neck=False, **VGG, out_indices=()),
    'attention-resnet': plain(256, neck=False, type='mmat.AttentionResNet', depth=11, out_indices=()),
    **{f'wrn-neck{i}-head{i % 4}': attentive(WRN, (16, 32, 64), neck, HEADS[i % 4])
       for i, neck in enumerate(SPATIAL + GRID)},
    'vgg-spatial-gradients': attentive(dict(VGG, average_gradients=True), (32, 64, 64), SPATIAL[0], HEADS[2]),
    'vgg-plain-grid': attentive(dict(VGG, arch='plain', position='after_pool'), (32, 64, 64), GRID[0], HEADS[0]),
    'resnet-spatial': attentive(dict(type='mmat.AttentionResNet', depth=11, out_indices=(1, 2)), (128, 256), SPATIAL[6],
                                HEADS[3]),
    'resnet-grid-gradients': attentive(
        dict(type='mmat.AttentionResNet', depth=11, out_indices=(0, 1, 2), global_branch='pool',
             average_gradients=True), (64, 128, 256), GRID[1], HEADS[1]),
}
every_network = pytest.mark.parametrize('name', NETWORKS)


def images(count, height=32, width=32):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(count))


def build(name):
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(type='mmat.BatchPreprocessor', mean=[0.] * 3, std=[1.] * 3), **NETWORKS[name]))
    with torch.no_grad():
        # One pass in training mode for statistics of BN that differ from the initial ones.
        model.train()(images(4))
    return model.eval()


def check(model, exported, sizes):
    for size in sizes:
        with torch.no_grad():
            expected = model(images(*size))
            assert len(expected) == size[0] and expected.std() > 0
            torch.testing.assert_close(exported(images(*size)), expected, rtol=1e-5, atol=1e-6)


@every_network
def test_a_trace_gives_the_same_for_other_batches_and_sizes(name):
    model = build(name)
    with warnings.catch_warnings():
        # CIFARVGG pools once more from 64 pixels on, which a trace cannot do.
        warnings.simplefilter('default' if name == 'cifar-vgg' else 'error', TracerWarning)
        traced = torch.jit.trace(model, images(2))
    check(model, traced, [(2, ), (1, ), (5, ), (3, 48, 40)])


@pytest.mark.parametrize('name', ['wrn-neck9-head1', 'vgg-spatial-gradients'])
def test_an_export_gives_the_same_for_other_batches(name):
    model = build(name)
    # torch takes a batch of one for a constant.
    exported = torch.export.export(model, (images(2), ), dynamic_shapes=({0: torch.export.Dim('images')}, ))
    check(model, exported.module(), [(2, ), (1, ), (5, )])
