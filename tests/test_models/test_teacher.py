import copy
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn as nn
from mmengine.registry import DefaultScope

from mmat.errors import CheckpointError, ConfigError, MissingFileError
from mmat.models import build_network
from mmat.models.distillers import Teacher
from mmat.models.distillers import teacher as teacher_module
from mmat.registry import MODELS


def raw_batch(count=3):
    generator = torch.Generator().manual_seed(0)
    return dict(inputs=torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8))


def record_inputs(network):
    """Return a list that collects the network's inputs."""
    seen = []
    network.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    return seen


def read(distiller, inputs, layer):
    """Return the outputs of the teacher for a head that reads one layer."""
    head = SimpleNamespace(
        teacher_layers=[layer], teacher_paths=[layer], teacher_wants=(), reduce_teacher=lambda outputs: outputs)
    return distiller.teacher(inputs, None, [head], distiller.data_preprocessor)[0]


# Frozen

def test_it_stays_in_eval_mode_with_its_dropout_in_any_mode_of_the_distiller(distiller_config):
    dropout = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(16))
    teacher = build_network(distiller_config()['student'])
    teacher.backbone.conv0 = nn.Sequential(teacher.backbone.conv0, dropout)
    statistics = copy.deepcopy(teacher.state_dict())
    distiller = MODELS.build(distiller_config(teacher=teacher))
    distiller.prepare_teacher()
    distiller.train()
    teacher.train()  # as other code that shares the network may do
    first, second = (read(distiller, torch.ones(2, 3, 8, 8), 'backbone.group0') for _ in range(2))
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
@pytest.mark.parametrize('convert, dtype', [
    (nn.Module.double, torch.float64), (nn.Module.half, torch.float16), (nn.Module.bfloat16, torch.bfloat16),
    (nn.Module.float, torch.float32)])
@pytest.mark.parametrize('shared', [False, True], ids=['file', 'network'])
def test_it_has_the_dtype_of_the_distiller(shared, convert, dtype, built_before, distiller_config, network_config):
    # A file's network is built when training starts, after conversions of the distiller.
    options = dict(teacher=build_network(network_config(widen_factor=2))) if shared else {}
    distiller = MODELS.build(distiller_config(**options))
    if built_before:
        distiller.prepare_teacher()
    convert(distiller)
    assert distiller.teacher.built == built_before
    network = distiller.prepare_teacher().network
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    assert {buffer.dtype for buffer in network.backbone.buffers()} == {dtype, torch.int64}
    # It still follows the distiller afterwards.
    distiller.float()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_in_float64_its_outputs_are_those_of_a_float64_network(distiller_config, network_config, teacher_file):
    distiller = MODELS.build(distiller_config()).double()
    distiller.prepare_teacher()
    reference = build_network(network_config(widen_factor=2))
    reference.load_state_dict(torch.load(teacher_file)['state_dict'])
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = reference.double().eval()(images)
    result = read(distiller, images, 'head').features['head']
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-14)


def test_it_follows_the_distiller_to_another_device(distiller_config):
    # Every machine has the device 'meta'.
    distiller = MODELS.build(distiller_config())
    network = distiller.prepare_teacher().network
    distiller.to('meta')
    assert {parameter.device.type for parameter in network.parameters()} == {'meta'}


def test_it_is_moved_to_the_students_device_when_it_is_built(distiller_config):
    distiller = MODELS.build(distiller_config())
    distiller.to('meta')
    assert not distiller.teacher.built
    tensors = [*distiller.prepare_teacher().network.parameters(), *distiller.teacher.network.buffers()]
    assert {tensor.device.type for tensor in tensors} == {'meta'}


def test_it_is_built_once(distiller_config, monkeypatch):
    distiller = MODELS.build(distiller_config())
    loaded = []
    load_weights = teacher_module.load_weights
    monkeypatch.setattr(teacher_module, 'load_weights', lambda *args: loaded.append(args) or load_weights(*args))
    networks = {distiller.prepare_teacher().network for _ in range(3)} | {distiller.teacher.network}
    assert len(networks) == len(loaded) == 1


def test_a_copy_shares_it(distiller_config):
    distiller = MODELS.build(distiller_config())
    assert copy.deepcopy(distiller).teacher is distiller.teacher


@pytest.mark.parametrize('draw', [torch.rand, pytest.param(lambda n: torch.nn.Linear(n, n).weight, id='init')])
def test_building_it_does_not_advance_the_random_stream(draw, distiller_config):
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
def test_its_images_have_its_own_normalisation(student, teacher, training, network_config, distiller_config):
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
    seen = record_inputs(network)
    raw = raw_batch()
    torch.manual_seed(0)
    inputs = distiller.data_preprocessor(raw, training=training)['inputs']
    read(distiller, inputs, 'backbone.group0')
    # The same augmentation without a normalisation.
    torch.manual_seed(0)
    images = distiller.data_preprocessor.augment(raw['inputs']) if training else raw['inputs']
    mean, std = teacher or (0, 1)
    expected = (images.double() - mean) / std
    # Two float32 roundings instead of one, of values up to 255.
    torch.testing.assert_close(seen[0].double(), expected, rtol=1e-5, atol=1e-5 * 255 / std)
    if student == teacher:
        assert seen[0] is inputs


def test_each_channel_has_its_own_normalisation(network_config, distiller_config):
    means, stds = [[10., 20., 30.], [60., 50., 40.]], [[1., 2., 4.], [8., 16., 32.]]
    configs = []
    for mean, std in zip(means, stds):
        configs.append(network_config())
        configs[-1]['data_preprocessor'].update(mean=mean, std=std)
    network = build_network(configs[1])
    distiller = MODELS.build(distiller_config(student=configs[0], teacher=network))
    seen, raw = record_inputs(network), raw_batch()
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
    seen, raw = record_inputs(network), raw_batch()
    inputs = distiller.data_preprocessor(raw)['inputs']
    read(distiller, inputs, 'backbone.group0')
    torch.testing.assert_close(seen[0], (raw['inputs'].float() - 125.3) / 63, rtol=1e-5, atol=1e-5)


# Weights

@pytest.mark.parametrize('create', [Teacher.from_config, Teacher.of])
def test_a_teacher_from_a_config(create, network_config):
    network = build_network(network_config())
    teacher = create(dict(model=network_config(2), checkpoint='nowhere.pth'))
    assert isinstance(teacher, Teacher)
    assert teacher.model == network_config(2) and teacher.checkpoint == 'nowhere.pth'
    # The model alone: a network, a model config, or a name of a zoo.
    assert create(network).network is network and create(network).checkpoint is None
    with pytest.raises(ConfigError, match='ImageClassifier'):
        create(network_config(2))


def test_it_has_the_weights_of_its_checkpoint(distiller_config, teacher_file):
    network = MODELS.build(distiller_config()).prepare_teacher().network
    expected = torch.load(teacher_file)['state_dict']
    assert network.state_dict().keys() == expected.keys()
    for key, value in network.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_it_is_not_built_before_it_is_needed(network_config):
    teacher = Teacher(network_config(2), checkpoint='nowhere/epoch_1.pth')
    assert not teacher.built


@pytest.mark.parametrize('model, name', [
    ('nin-wide-nobn_1xb128_cifar10', 'nin-wide-nobn_1xb128_cifar10'),
    (dict(type='mmpretrain.ImageClassifier'), 'mmpretrain.ImageClassifier')])
def test_a_teacher_without_a_checkpoint_is_refused(model, name):
    with pytest.raises(ConfigError, match=rf'\({name}\).*checkpoint=') as error:
        Teacher(model)
    assert 'teacher=dict(' in str(error.value)


# Other families

@pytest.fixture
def timm_config(tmp_path):
    """Return a timm classifier, with its pretrained weights in a file instead of a download, and the weights."""
    torch.manual_seed(3)
    weights = timm.create_model('test_resnet', num_classes=10).state_dict()
    torch.save(weights, tmp_path / 'timm.pth')
    config = dict(
        type='mmpretrain.TimmClassifier', model_name='test_resnet', num_classes=10, pretrained=True,
        pretrained_cfg_overlay=dict(file=str(tmp_path / 'timm.pth'), num_classes=10),
        loss=dict(type='mmpretrain.CrossEntropyLoss'), data_preprocessor=dict(mean=[10.] * 3, std=[20.] * 3))
    return config, weights


def test_a_timm_network_has_timms_weights(distiller_config, timm_config):
    config, weights = timm_config
    head = dict(type='mmat.ActivationATHead', pairs=[(0, 0), (2, -1)])
    distiller = MODELS.build(distiller_config(teacher=dict(model=config), at_heads=[head]))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    network = distiller.prepare_teacher().network
    assert torch.random.get_rng_state().equal(before)
    assert network.model.state_dict().keys() == weights.keys()
    assert all(value.equal(weights[key]) for key, value in network.model.state_dict().items())
    assert distiller.at_heads[0].teacher_paths == ['model.layer1', 'model.layer4']


def test_its_widths_are_known_without_its_weights(distiller_config, timm_config, tmp_path):
    config, _ = timm_config
    (tmp_path / 'timm.pth').unlink()
    head = dict(type='mmat.FullActivationHead', pairs=[(0, 'model.layer1')])
    distiller = MODELS.build(distiller_config(teacher=dict(model=config), at_heads=[head]))
    width = timm.create_model('test_resnet').feature_info[1]['num_chs']
    assert [parameter.shape for parameter in distiller.at_heads.parameters()] == [(width, 16, 1, 1)]


def test_a_timm_network_without_weights_is_refused(timm_config):
    config, _ = timm_config
    with pytest.raises(ConfigError, match=r'\(mmpretrain.TimmClassifier\).*checkpoint='):
        Teacher({**config, 'pretrained': False})


def test_a_timm_network_without_a_normalisation_is_refused(timm_config):
    config, _ = timm_config
    del config['data_preprocessor']
    with pytest.raises(ConfigError, match=r'\(test_resnet\).*data_preprocessor.*mean.*std.*get_pretrained_cfg'):
        Teacher(config)


def test_a_name_of_mmpretrains_zoo(distiller_config):
    teacher = Teacher('vit-base-p16_32xb128-mae_in1k')
    assert teacher.checkpoint == ('https://download.openmmlab.com/mmclassification/v0/vit/'
                                  'vit-base-p16_pt-32xb128-mae_in1k_20220623-4c544545.pth')
    for scope in ('mmat', 'mmengine'):
        with DefaultScope.overwrite_default_scope(scope), torch.device('meta'):
            network = build_network(teacher.model)
    assert type(network.backbone).__name__ == 'VisionTransformer'
    # ImageNet's statistics, which mmpretrain's config has beside the model.
    assert network.data_preprocessor.mean.shape == (3, 1, 1)


def test_a_timm_network_trains_and_is_validated_on_images_in_memory(timm_config, make_runner):
    config, _ = timm_config
    preprocessor = dict(type='mmat.BatchPreprocessor', mean=[77.] * 3, std=[81.] * 3)
    runner = make_runner({**config, 'pretrained': False, 'data_preprocessor': preprocessor}, validate=True)
    runner.train()
    accuracy = runner.message_hub.get_scalar('val/accuracy/top1').current()
    # By hand, on the same 50 images.
    images, labels = (getattr(runner.val_dataloader.dataset, name) for name in ('images', 'labels'))
    runner.model.eval()
    with torch.no_grad():
        scores = runner.model.model((images.float() - 77) / 81)
    assert accuracy == pytest.approx(100 * (scores.argmax(1) == labels).float().mean().item())


def test_a_timm_student_is_saved_with_timms_names(distiller_config, timm_config):
    config, weights = timm_config
    student = {**config, 'pretrained': False}
    head = dict(type='mmat.ActivationATHead', pairs=[(-1, 2)])
    distiller, other = (MODELS.build(distiller_config(student=copy.deepcopy(student), at_heads=[head]))
                        for _ in range(2))
    state = distiller.state_dict()
    assert state.keys() == weights.keys()
    other.load_state_dict({key: value + 1 for key, value in state.items()})
    assert all(value.equal(state[key] + 1) for key, value in other.student.model.state_dict().items())


def test_a_missing_checkpoint_is_named_with_the_commands_that_help(tmp_path):
    path = tmp_path / 'epoch_9.pth'
    (tmp_path / 'epoch_8.pth').touch()
    with pytest.raises(MissingFileError) as error:
        Teacher('configs/wide_resnet/wrn16-2_1xb32_digits.py', str(path)).network  # noqa: B018
    message = str(error.value)
    for part in (str(path), 'epoch_8.pth', 'python tools/train.py configs/wide_resnet/wrn16-2_1xb32_digits.py',
                 '--cfg-options model.teacher.checkpoint=PATH'):
        assert part in message
    assert '\n' not in message


def test_a_zoo_name_without_its_checkpoint_gets_the_command_that_trains_it(tmp_path):
    model = 'wrn16-2_1xb32_digits'
    with pytest.raises(MissingFileError, match=f'python tools/train.py {model}'):
        Teacher(model, str(tmp_path / 'none.pth')).network  # noqa: B018


def test_another_networks_checkpoint_is_refused(network_config, teacher_file):
    with pytest.raises(CheckpointError, match='epoch_1.pth.*ImageClassifier') as error:
        Teacher(network_config(widen_factor=1), teacher_file).network  # noqa: B018
    assert '\n' not in str(error.value)


def test_a_deeper_networks_checkpoint_is_refused(network_config, teacher_file):
    config = network_config(widen_factor=2)
    config['backbone']['depth'] = 16
    with pytest.raises(CheckpointError, match=r'epoch_1.pth.*ImageClassifier.* \d+ .*backbone.group0.block1') as error:
        Teacher(config, teacher_file).network  # noqa: B018
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kept', [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(kept, tmp_path, network_config, teacher_file):
    path = tmp_path / 'epoch_1.pth'
    with open(teacher_file, 'rb') as file:
        content = file.read()
    path.write_bytes(content[:kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CheckpointError) as error:
        Teacher(network_config(widen_factor=2), str(path)).network  # noqa: B018
    assert repr(str(path)) in str(error.value) and '\n' not in str(error.value)


def test_a_misspelt_option_is_refused(network_config, distiller_config):
    with pytest.raises((TypeError, ValueError), match='chekpoint'):
        MODELS.build(distiller_config(teacher=dict(model=network_config(2), chekpoint='x')))
