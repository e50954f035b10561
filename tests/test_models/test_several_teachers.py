import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict

from mmat.datasets.in_memory import BatchedSamples
from mmat.errors import ConfigError, LayerError
from mmat.models import Distiller, build_network
from mmat.models.distillers import teachers_of

STUDENT, A, B = 'wrn16-1_1xb10_digits', 'wrn16-2_1xb32_digits', 'wrn16-1_1xb10_digits'
KD, AT = dict(type='mmat.SoftTargetHead'), dict(type='mmat.ActivationATHead', pairs=[(0, 0), (2, 2)])
LABELS = BatchedSamples(torch.tensor([0, 1, 2, 3]))


@pytest.fixture(scope='module')
def networks():
    torch.manual_seed(0)
    return dict(a=build_network(A), b=build_network(B))


def build(at_heads, networks, **teachers):
    torch.manual_seed(1)
    teachers = teachers or networks
    return Distiller(student=STUDENT, teachers=teachers, at_heads=at_heads).train()


def images(size=16):
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))


def test_soft_targets_are_averaged_by_weight(networks):
    distiller = build([{**KD, 'teacher': dict(a=3, b=1)}], networks)
    losses = distiller.loss(images(), LABELS)
    with torch.no_grad():
        a, b = ((networks[name].eval()(images(), mode='tensor').double() / 4).softmax(1) for name in 'ab')
        student = (distiller.student(images(), mode='tensor').double() / 4).log_softmax(1)
    expected = 16 * F.kl_div(student, 0.75 * a + 0.25 * b, reduction='batchmean')
    torch.testing.assert_close(losses['kd'].double(), expected, rtol=1e-4, atol=1e-6)


def test_each_head_reads_its_teacher(networks):
    both = build([{**AT, 'teacher': 'a', 'name': 'one'}, {**AT, 'teacher': 'b', 'name': 'two'}], networks)
    losses = both.loss(images(), LABELS)
    for name, label in (('a', 'one'), ('b', 'two')):
        alone = build([{**AT, 'name': label}], networks, **{name: networks[name]}).loss(images(), LABELS)
        for layer in ('backbone.group0', 'backbone.group2'):
            torch.testing.assert_close(losses[f'loss_{label}.{layer}'], alone[f'loss_{label}.{layer}'])
    assert not torch.equal(losses['one.backbone.group0'], losses['two.backbone.group0'])


def test_each_is_resized_by_itself_and_none_is_trained_or_saved(networks):
    sizes = {name: [] for name in networks}
    hooks = [network.backbone.register_forward_pre_hook(
        lambda module, args, name=name: sizes[name].append(tuple(args[0].shape[-2:])))
        for name, network in networks.items()]
    distiller = build([{**KD, 'teacher': dict(a=1, b=1)}], networks, a=networks['a'],
                      b=dict(model=networks['b'], input_size=(24, 20)))
    distiller.loss(images(), LABELS)
    for hook in hooks:
        hook.remove()
    assert sizes == dict(a=[(16, 16)], b=[(24, 20)])
    assert not any(parameter.requires_grad for network in networks.values() for parameter in network.parameters())
    assert distiller.state_dict().keys() == build_network(STUDENT).state_dict().keys()
    assert list(distiller.teachers) == ['a', 'b'] and distiller.teacher is distiller.teachers['a']


def test_a_teacher_that_no_head_reads_is_not_built():
    distiller = build([{**KD, 'teacher': 'a'}], {}, a=dict(model=A, checkpoint='absent'),
                      b=dict(model=B, checkpoint='absent'))
    assert [distiller.readers_of(name) for name in 'ab'] == [[distiller.at_heads[0]], []]


@pytest.mark.parametrize('heads, names', [
    ([KD], ["'kd'", "'a'", "'b'"]),
    ([{**KD, 'teacher': 'c'}], ["'kd'", "'c'"]),
    ([{**KD, 'teacher': dict(a=1, c=1)}], ["'c'"]),
    ([{**KD, 'teacher': dict(a=0)}], ["'a'", '0']),
    ([{**KD, 'teacher': dict(a='x')}], ["'a'", "'x'"]),
    ([{**KD, 'teacher': dict(a=float('inf'), b=1)}], ["'a'", 'inf']),
    ([{**AT, 'teacher': dict(a=1, b=1)}], ['ActivationATHead', "'a'"]),
])
def test_what_is_refused(heads, names, networks):
    with pytest.raises(ConfigError) as error:
        build(heads, networks)
    assert [name for name in names if name not in str(error.value)] == []


@pytest.mark.parametrize('options, name', [
    (dict(teacher=[dict(model=A), dict(model=B)]), 'teachers='),
    (dict(teacher=dict(model=A, checkpoint='x'), teachers=dict(a=A)), 'teachers'),
    (dict(teachers=[A, B]), 'teachers'),
])
def test_other_forms_are_refused(options, name):
    with pytest.raises(ConfigError, match=name):
        Distiller(student=STUDENT, at_heads=[KD], **options)


@pytest.mark.parametrize('teacher, name', [
    (dict(model=A, checpoint='a'), "'checkpoint'"), (dict(checkpoint='a'), "'model'"),
    (dict(model=A, zebra=1), "'zebra'")])
def test_options_are_checked(teacher, name):
    with pytest.raises(ConfigError, match=name):
        build([KD], {}, a=teacher)


@pytest.mark.parametrize('size', [0, -1, True, 1.5, 'x', (1, ), (1, 0), (1, 2, 3)])
def test_sizes_are_checked(size, networks):
    with pytest.raises(ConfigError, match='input_size'):
        build([KD], networks, a=dict(model=networks['a'], input_size=size))


def test_teachers_of_a_config():
    teacher = dict(model=A)
    assert teachers_of(ConfigDict(teacher=teacher)) == dict(teacher=teacher)
    assert teachers_of(ConfigDict(teacher=None, teachers=dict(a=A, b=B))) == dict(a=A, b=B)
    assert teachers_of(ConfigDict()) == teachers_of(ConfigDict(type='mine.Other', teacher=teacher)) == {}


def test_a_network_for_another_size_is_told_apart():
    vgg = build_network(dict(
        type='mmpretrain.ImageClassifier', backbone=dict(type='mmpretrain.VGG', depth=11, num_classes=10),
        data_preprocessor=dict(mean=[0.] * 3, std=[1.] * 3), head=dict(type='mmpretrain.ClsHead')))
    distiller = build([KD], {}, a=vgg)
    with pytest.raises(LayerError) as error:
        distiller.teachers['a'].check_input_size((32, 32))
    assert [part for part in ("'a'", 'ImageClassifier', '32 x 32', 'input_size=') if part not in str(error.value)] == []
    resized = build([KD], {}, a=dict(model=vgg, input_size=224))
    resized.teachers['a'].check_input_size((32, 32))


# Frozen students

def frozen_config(count):
    config = dict(type='mmpretrain.ImageClassifier',
                  backbone=dict(type='mmpretrain.ResNet', depth=18, base_channels=8, stem_channels=8,
                                frozen_stages=count, out_indices=(3, )),
                  neck=dict(type='mmpretrain.GlobalAveragePooling'),
                  head=dict(type='mmat.LinearClsHead', num_classes=10, in_channels=64),
                  data_preprocessor=dict(type='mmat.BatchPreprocessor'))
    return build_network(config)


def test_layers_that_the_student_has_frozen(networks, monkeypatch):
    messages = []
    monkeypatch.setattr('mmat.models.distillers.distiller.print_log', lambda text, *args: messages.append(text))

    def loss(count):
        distiller = Distiller(student=frozen_config(count), teacher=networks['a'],
                              at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1)])]).train()
        return distiller.loss(images(32), LABELS)

    loss(-1)
    assert messages == []
    loss(1)
    message, = messages
    assert 'backbone.layer1' in message and 'backbone.layer2' not in message
    loss(2)
    assert 'at: ' in messages[-1] and 'backbone.layer1' in messages[-1] and 'backbone.layer2' in messages[-1]
