import copy
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn as nn
from mmengine.registry import DefaultScope

from mmat.models import build_network
from mmat.models.distillers import Teacher
from mmat.registry import MODELS


def raw_batch(count=3):
    generator = torch.Generator().manual_seed(0)
    return dict(inputs=torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8))


def seen_by(network):
    """List that fills with what the network is given."""
    seen = []
    network.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    return seen


def read(distiller, inputs, layer):
    """What the teacher gives a head that reads one layer."""
    head = SimpleNamespace(teacher_layers=[layer], teacher_wants=(), digest=lambda outputs: outputs)
    return distiller.teacher(inputs, None, [head], distiller.data_preprocessor)[0]


# Frozen

def test_it_is_in_eval_mode_with_its_dropout_whatever_the_distiller_is_told(distiller_config):
    dropout = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(16))
    teacher = build_network(distiller_config()['student'])
    teacher.backbone.conv0 = nn.Sequential(teacher.backbone.conv0, dropout)
    statistics = copy.deepcopy(teacher.state_dict())
    distiller = MODELS.build(distiller_config(teacher=teacher))
    distiller.prepare_teacher()
    distiller.train()
    teacher.train()  # by someone who shares it
    first, second = (
        read(distiller, torch.ones(2, 3, 8, 8), 'backbone.group0')
        for _ in range(2))
    assert not any(module.training for module in teacher.modules())
    assert torch.equal(first.features['backbone.group0'], second.features['backbone.group0'])
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, statistics[key]), key


def test_it_has_no_gradients_and_is_no_part_of_the_distiller(distiller_config):
    distiller = MODELS.build(distiller_config())
    network = distiller.prepare_teacher().network
    mine = {id(item) for item in [*distiller.modules(), *distiller.parameters(), *distiller.buffers()]}
    theirs = [*network.modules(), *network.parameters(), *network.buffers()]
    assert not mine & {id(item) for item in theirs}
    assert not any(parameter.requires_grad for parameter in network.parameters())
    out = read(distiller, torch.ones(1, 3, 8, 8), 'backbone.group2')
    assert not out.features['backbone.group2'].requires_grad


def test_it_needs_no_labels(distiller_config):
    distiller = MODELS.build(distiller_config())
    with torch.no_grad():
        out = read(distiller, torch.ones(1, 3, 8, 8), 'head.fc')
    assert out.features['head.fc'].shape == (1, 10)


@pytest.mark.parametrize('built_before', [False, True])
def test_it_follows_the_distiller_to_another_dtype(built_before, distiller_config):
    distiller = MODELS.build(distiller_config())
    if built_before:
        distiller.prepare_teacher()
    distiller.double()
    network = distiller.prepare_teacher().network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}


def test_it_follows_the_distiller_to_another_device(distiller_config):
    # 'meta' is the one other device that every machine has.
    distiller = MODELS.build(distiller_config())
    network = distiller.prepare_teacher().network
    distiller.to('meta')
    assert {parameter.device.type for parameter in network.parameters()} == {'meta'}


def test_a_copy_shares_it(distiller_config):
    distiller = MODELS.build(distiller_config())
    assert copy.deepcopy(distiller).teacher is distiller.teacher


@pytest.mark.parametrize('draw', [torch.rand, pytest.param(lambda n: torch.nn.Linear(n, n).weight, id='init')])
def test_building_it_leaves_the_random_stream_alone(draw, distiller_config):
    drawn = []
    for build in (False, True):
        distiller = MODELS.build(distiller_config())
        torch.manual_seed(3)
        if build:
            distiller.prepare_teacher()
        drawn.append(draw(5))
    assert torch.equal(*drawn)


# Normalisation

@pytest.mark.parametrize('student', [(77.7, 81.1), (0., 1.), None])
@pytest.mark.parametrize('teacher', [(77.7, 81.1), (125.3, 63.), (10., 255.), None])
@pytest.mark.parametrize('training', [False, True])
def test_it_sees_the_images_under_its_own_normalisation(student, teacher, training, network_config, distiller_config):
    configs = []
    for statistics in (student, teacher):
        config = network_config(1)
        if statistics is None:
            del config['data_preprocessor']['mean'], config['data_preprocessor']['std']
        else:
            config['data_preprocessor'].update(mean=[statistics[0]] * 3, std=[statistics[1]] * 3)
        configs.append(config)
    network = build_network(configs[1])
    distiller = MODELS.build(distiller_config(student=configs[0], teacher=network))
    seen = seen_by(network)
    raw = raw_batch()
    torch.manual_seed(0)
    inputs = distiller.data_preprocessor(raw, training=training)['inputs']
    read(distiller, inputs, 'backbone.group0')
    # The same augmentation, without any normalisation.
    torch.manual_seed(0)
    images = distiller.data_preprocessor.augment(raw['inputs']) if training else raw['inputs']
    mean, std = teacher or (0, 1)
    expected = (images.double() - mean) / std
    # Two roundings of float32 instead of one, of values as large as 255 / 1.
    torch.testing.assert_close(seen[0].double(), expected, rtol=1e-5, atol=1e-5 * 255 / std)
    if student == teacher:
        assert seen[0] is inputs


def test_channels_are_normalised_one_by_one(network_config, distiller_config):
    means, stds = [[10., 20., 30.], [60., 50., 40.]], [[1., 2., 4.], [8., 16., 32.]]
    configs = []
    for mean, std in zip(means, stds):
        configs.append(network_config())
        configs[-1]['data_preprocessor'].update(mean=mean, std=std)
    network = build_network(configs[1])
    distiller = MODELS.build(distiller_config(student=configs[0], teacher=network))
    seen, raw = seen_by(network), raw_batch()
    inputs = distiller.data_preprocessor(raw)['inputs']
    read(distiller, inputs, 'backbone.group0')
    for channel in range(3):
        expected = (raw['inputs'][:, channel].float() - means[1][channel]) / stds[1][channel]
        torch.testing.assert_close(seen[0][:, channel], expected, rtol=1e-5, atol=1e-5)


def test_a_teacher_with_mmpretrains_preprocessor(network_config, distiller_config):
    config = network_config()
    config['data_preprocessor'] = dict(
        type='mmpretrain.ClsDataPreprocessor', mean=[125.3] * 3, std=[63.] * 3, num_classes=10)
    network = build_network(config)
    distiller = MODELS.build(distiller_config(teacher=network))
    seen, raw = seen_by(network), raw_batch()
    inputs = distiller.data_preprocessor(raw)['inputs']
    read(distiller, inputs, 'backbone.group0')
    torch.testing.assert_close(seen[0], (raw['inputs'].float() - 125.3) / 63, rtol=1e-5, atol=1e-5)


# Weights

def test_it_holds_the_weights_of_its_checkpoint(distiller_config, teacher_file):
    network = MODELS.build(distiller_config()).prepare_teacher().network
    expected = torch.load(teacher_file)['state_dict']
    assert network.state_dict().keys() == expected.keys()
    for key, value in network.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_it_is_not_built_before_it_is_needed(network_config):
    teacher = Teacher(network_config(2), checkpoint='nowhere/epoch_1.pth')
    assert not teacher.built


@pytest.mark.parametrize('model', ['nin-wide-nobn_1xb128_cifar10', dict(type='mmpretrain.ImageClassifier')])
def test_a_teacher_without_a_checkpoint_is_refused(model):
    with pytest.raises(ValueError, match=r'\(.*(cifar10|ImageClassifier)\) has no checkpoint: give teacher=dict'):
        Teacher(model)


# Other families

@pytest.fixture
def timm_config(tmp_path):
    """A classifier of timm's with weights of its own, from a file where it would download them."""
    torch.manual_seed(3)
    weights = timm.create_model('test_resnet', num_classes=10).state_dict()
    torch.save(weights, tmp_path / 'timm.pth')
    config = dict(
        type='mmpretrain.TimmClassifier', model_name='test_resnet', num_classes=10, pretrained=True,
        pretrained_cfg_overlay=dict(file=str(tmp_path / 'timm.pth'), num_classes=10),
        loss=dict(type='mmpretrain.CrossEntropyLoss'), data_preprocessor=dict(mean=[10.] * 3, std=[20.] * 3))
    return config, weights


def test_a_network_of_timms_has_timms_weights(distiller_config, timm_config):
    config, weights = timm_config
    head = dict(type='mmat.ActivationATHead', pairs=[(0, 1), (2, -1)])
    distiller = MODELS.build(distiller_config(teacher=dict(model=config), at_heads=[head]))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    network = distiller.prepare_teacher().network
    assert torch.random.get_rng_state().equal(before)
    assert network.model.state_dict().keys() == weights.keys()
    assert all(value.equal(weights[key]) for key, value in network.model.state_dict().items())
    assert distiller.at_heads[0].teacher_layers == ['model.layer1', 'model.layer4']


def test_its_widths_are_known_without_its_weights(distiller_config, timm_config, tmp_path):
    config, _ = timm_config
    (tmp_path / 'timm.pth').unlink()
    head = dict(type='mmat.FullActivationHead', pairs=[(0, 'model.layer1')])
    distiller = MODELS.build(distiller_config(teacher=dict(model=config), at_heads=[head]))
    width = timm.create_model('test_resnet').feature_info[1]['num_chs']
    assert [parameter.shape for parameter in distiller.at_heads.parameters()] == [(width, 16, 1, 1)]


def test_a_network_of_timms_without_its_weights_is_refused(timm_config):
    config, _ = timm_config
    with pytest.raises(ValueError, match=r'\(mmpretrain.TimmClassifier\) has no checkpoint'):
        Teacher({**config, 'pretrained': False})


def test_a_network_of_timms_without_its_normalisation_is_refused(timm_config):
    config, _ = timm_config
    del config['data_preprocessor']
    with pytest.raises(ValueError, match=r'\(test_resnet\) has no data_preprocessor with mean and std'):
        Teacher(config)


def test_a_name_of_mmpretrains_zoo(distiller_config):
    teacher = Teacher('vit-base-p16_32xb128-mae_in1k')
    assert teacher.checkpoint == ('https://download.openmmlab.com/mmclassification/v0/vit/'
                                  'vit-base-p16_pt-32xb128-mae_in1k_20220623-4c544545.pth')
    for scope in ('mmat', 'mmengine'):
        with DefaultScope.overwrite_default_scope(scope), torch.device('meta'):
            network = build_network(teacher.model)
    assert type(network.backbone).__name__ == 'VisionTransformer'
    # ImageNet's statistics, from beside the model in mmpretrain's config.
    assert network.data_preprocessor.mean.shape == (3, 1, 1)


def test_a_network_of_timms_trains_and_is_validated_on_images_in_memory(timm_config, make_runner):
    config, _ = timm_config
    preprocessor = dict(type='mmat.BatchPreprocessor', mean=[77.] * 3, std=[81.] * 3)
    runner = make_runner({**config, 'pretrained': False, 'data_preprocessor': preprocessor}, validate=True)
    runner.train()
    accuracy = runner.message_hub.get_scalar('val/accuracy/top1').current()
    # By hand, of the same 50 images.
    images, labels = (getattr(runner.val_dataloader.dataset, name) for name in ('images', 'labels'))
    runner.model.eval()
    with torch.no_grad():
        scores = runner.model.model((images.float() - 77) / 81)
    assert accuracy == pytest.approx(100 * (scores.argmax(1) == labels).float().mean().item())


def test_a_student_of_timms_is_saved_in_timms_names(distiller_config, timm_config):
    config, weights = timm_config
    student = {**config, 'pretrained': False}
    head = dict(type='mmat.ActivationATHead', pairs=[(-1, 2)])
    distiller, other = (MODELS.build(distiller_config(student=copy.deepcopy(student), at_heads=[head]))
                        for _ in range(2))
    state = distiller.state_dict()
    assert state.keys() == weights.keys()
    other.load_state_dict({key: value + 1 for key, value in state.items()})
    assert all(value.equal(state[key] + 1) for key, value in other.student.model.state_dict().items())


def test_a_missing_checkpoint_is_named_and_how_to_give_one(tmp_path):
    path = tmp_path / 'epoch_9.pth'
    (tmp_path / 'epoch_8.pth').touch()
    with pytest.raises(FileNotFoundError) as error:
        Teacher('configs/wide_resnet/wrn16-2_1xb32_digits.py', str(path)).network  # noqa: B018
    message = str(error.value)
    for part in (str(path), 'epoch_8.pth', 'python tools/train.py configs/wide_resnet/wrn16-2_1xb32_digits.py',
                 '--cfg-options model.teacher.checkpoint=PATH'):
        assert part in message
    assert '\n' not in message


@pytest.mark.parametrize('model', ['wrn16-2_1xb32_digits'])
def test_a_zoo_name_as_well_says_how_to_train_it(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=f'tools/train.py .*{model}'):
        Teacher(model, str(tmp_path / 'none.pth')).network  # noqa: B018


def test_another_networks_checkpoint_is_refused(network_config, teacher_file):
    with pytest.raises(ValueError, match='epoch_1.pth.*does not fit ImageClassifier') as error:
        Teacher(network_config(widen_factor=1), teacher_file).network  # noqa: B018
    assert '\n' not in str(error.value)


def test_a_deeper_networks_checkpoint_is_refused(network_config, teacher_file):
    config = network_config(widen_factor=2)
    config['backbone']['depth'] = 16
    with pytest.raises(ValueError, match=r'does not fit .* lacks \d+ keys \(backbone.group0.block1') as error:
        Teacher(config, teacher_file).network  # noqa: B018
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kept', [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(kept, tmp_path, network_config, teacher_file):
    path = tmp_path / 'epoch_1.pth'
    with open(teacher_file, 'rb') as file:
        content = file.read()
    path.write_bytes(content[:kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match=r"epoch_1.pth' cannot be read as a checkpoint: it is truncated") as error:
        Teacher(network_config(widen_factor=2), str(path)).network  # noqa: B018
    assert '\n' not in str(error.value)


def test_a_misspelt_option_is_refused(network_config, distiller_config):
    with pytest.raises((TypeError, ValueError), match='chekpoint'):
        MODELS.build(distiller_config(teacher=dict(model=network_config(2), chekpoint='x')))
