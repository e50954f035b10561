import pytest
import timm
import torch
import torch.nn as nn
from mmpretrain.models import DistilledVisionTransformer, ImageClassifier, SwinTransformer, VisionTransformer, ViTSAM

from mmat.errors import LayerError
from mmat.models import ActivationATHead, Distiller, get_attention_maps
from mmat.models.taps import tap

ARCH = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
SIZE = (32, 48)


def read(model, path, images):
    model.eval()
    with tap(model, [path]) as taps, torch.no_grad():
        model(images)
    return taps[path]


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(2, 3, *SIZE)


@pytest.mark.parametrize('network, prefix', [(VisionTransformer, 1), (DistilledVisionTransformer, 2)])
def test_tokens_of_mmpretrains_transformers(network, prefix, images):
    torch.manual_seed(0)
    # Reference: the network's own reshaping of the last layer, without its last norm.
    model = network(ARCH, img_size=SIZE, patch_size=8, out_type='featmap', final_norm=False)
    model.eval()
    with torch.no_grad():
        expected, = model(images)
    assert expected.shape == (2, 8, 4, 6)
    assert read(model, 'layers.1', images).equal(expected)
    assert model.num_extra_tokens == prefix


def test_the_grid_follows_the_image(images):
    model = VisionTransformer(ARCH, img_size=32, patch_size=8)
    assert read(model, 'layers.0', images).shape == (2, 8, 4, 6)
    assert read(model, 'layers.0', images[..., :40]).shape == (2, 8, 4, 5)
    # The patch embedding returns patches and their grid.
    assert read(model, 'patch_embed', images).shape == (2, 8, 4, 6)


def test_tokens_of_mmpretrains_swin_transformer(images):
    torch.manual_seed(0)
    arch = dict(embed_dims=8, depths=[1, 1], num_heads=[2, 2])
    model = SwinTransformer(arch, img_size=SIZE, window_size=2, out_indices=(0, 1))
    model.eval()
    with torch.no_grad():
        first, _ = model(images)
    # The tap is before the output norm.
    tapped = read(model, 'stages.0', images)
    assert tapped.shape == (2, 8, 8, 12)
    normed = nn.functional.layer_norm(tapped.permute(0, 2, 3, 1), (8, )).permute(0, 3, 1, 2)
    assert torch.allclose(normed, first, atol=1e-4)


@pytest.mark.parametrize('name, options', [
    ('vit_tiny_patch16_224', dict(embed_dim=12, depth=2, num_heads=2, patch_size=8)),
    ('deit_tiny_distilled_patch16_224', dict(embed_dim=12, depth=2, num_heads=2, patch_size=8)),
])
def test_tokens_of_timms_transformers(name, options, images):
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=SIZE, **options).eval()
    with torch.no_grad():
        # Reference: timm's reshaping.
        expected = model.forward_intermediates(images, indices=[1], intermediates_only=True)[0]
    assert read(model, 'blocks.1', images).equal(expected)


def test_timms_swin_transformer_keeps_channels_last(images):
    torch.manual_seed(0)
    model = timm.create_model(
        'swin_tiny_patch4_window7_224', img_size=SIZE, embed_dim=8, depths=(1, 1), num_heads=(2, 2),
        window_size=2).eval()
    with torch.no_grad():
        expected = model.forward_intermediates(images, indices=[1], intermediates_only=True)[0]
    assert read(model, 'layers.1', images).equal(expected)


@pytest.mark.parametrize('make, layer', [
    # These output (N, H, W, C); only the second declares it.
    (lambda: timm.create_model('samvit_base_patch16_224', embed_dim=16, depth=2, num_heads=2, patch_size=8,
                               img_size=32), 'blocks.1'),
    (lambda: timm.create_model('mambaout_femto', depths=(1, 1), dims=(16, 32)), 'stages.1'),
    # These output (N, C, H, W), though they have patch embeddings.
    (lambda: timm.models.convmixer.ConvMixer(dim=16, depth=1, patch_size=8), 'blocks.0'),
    (lambda: timm.models.davit.DaVit(depths=(1, 1), embed_dims=(32, 64), num_heads=(1, 2)), 'stages.1'),
    (lambda: timm.models.pvt_v2.PyramidVisionTransformerV2(
        depths=(1, 1), embed_dims=(16, 32), num_heads=(1, 2), sr_ratios=(2, 1), mlp_ratios=(2, 2)), 'stages.1'),
])
def test_timm_networks_in_both_layouts(make, layer):
    torch.manual_seed(0)
    assert read(make(), layer, torch.randn(2, 3, 32, 32)).shape[2:] == (4, 4)


def test_channels_last_by_the_images_shape_alone():
    # mmpretrain's SAM encoder.
    model = ViTSAM(dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16, global_attn_indexes=[0]),
                   img_size=32, patch_size=8, out_channels=0, use_abs_pos=False)
    tapped = read(model, 'layers.0', torch.randn(1, 3, 32, 32))
    assert tapped.shape == (1, 16, 4, 4)


def test_outputs_of_other_networks_are_unchanged():
    model = nn.Sequential(nn.Flatten(2))
    assert read(model, '0', torch.zeros(1, 4, 2, 2)).shape == (1, 4, 4)


def test_tokens_without_a_grid_name_their_layer(images):
    model = VisionTransformer(ARCH, img_size=SIZE, patch_size=8)
    model.layers[0] = nn.Sequential(nn.ZeroPad2d((0, 0, 0, 5)), model.layers[0])
    with pytest.raises(LayerError, match=r"'layers\.0'.*\b30 tokens"):
        read(model, 'layers.0', images)


def classifier(**backbone):
    return ImageClassifier(
        backbone=dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8, **backbone),
        head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=8),
        data_preprocessor=dict(mean=[0.] * 3, std=[1.] * 3))


def test_a_convolutional_student_learns_from_a_transformer(network_config):
    from mmengine.registry import DefaultScope
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        teacher = classifier()
    distiller = Distiller(network_config(mean=0., std=1.), teacher, [ActivationATHead([(2, 1)], weight=1.)])
    distiller.init_weights()
    distiller.eval()
    batch = torch.randn(4, 3, 32, 32)
    losses = distiller.loss(batch, dict_labels(4))
    # By hand: the student's 8 x 8 map pooled to the 4 x 4 of the teacher's patches.
    student = read(distiller.student, 'backbone.group2', batch).square().sum(1)
    tokens = []
    teacher.backbone.layers[1].register_forward_hook(lambda module, args, output: tokens.append(output))
    with torch.no_grad():
        teacher(batch)
    expected = tokens[0][:, 1:].square().sum(-1)
    student = nn.functional.avg_pool2d(student, 2).flatten(1)
    unit = nn.functional.normalize
    reference = (unit(student) - unit(expected)).square().mean()
    assert losses['at.backbone.group2'].item() == pytest.approx(reference.item(), rel=1e-4)


def dict_labels(count):
    from mmpretrain.structures import DataSample
    return [DataSample().set_gt_label(index) for index in range(count)]


def test_maps_of_a_transformer_by_stage_index():
    from mmengine.registry import DefaultScope
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = classifier().eval()
    maps = get_attention_maps(model, torch.rand(2, 3, 32, 32), layers=[-1])
    assert maps['backbone.layers.1'].shape == (2, 4, 4)
