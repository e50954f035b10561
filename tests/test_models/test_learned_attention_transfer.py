import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModel

from mmat.datasets import BatchedSamples
from mmat.errors import LayerError, UserError
from mmat.models import ActivationATHead, Distiller, build_network

MAPS = ['neck.maps.0', 'neck.maps.1']


def network(config, seed=0):
    torch.manual_seed(seed)
    model = build_network(config)
    model.init_weights()
    return model


def batch(size=16):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, size, size, generator=generator), BatchedSamples(torch.arange(4))


def stages(model, images):
    """Return the outputs of a WideResNet's groups."""
    outputs, x = [], model.backbone.conv0(images)
    for name in model.backbone.stage_names:
        x = getattr(model.backbone, name)(x)
        outputs.append(x)
    return outputs


def learned(model, images):
    """Compute the neck's maps: softmax over positions of <u, l>, without the global feature."""
    features = stages(model, images)[1:]
    features[1] = F.relu(model.backbone.bn(features[1]))
    scores = [F.conv2d(feature, score.weight) for feature, score in zip(features, model.neck.scores)]
    return [each.flatten(1).softmax(1).view(each.shape[0], *each.shape[2:]) for each in scores]


def activations(model, images):
    return [each.square().sum(1) for each in stages(model, images)]


def distance(student, teacher, form='code'):
    size = [min(pair) for pair in zip(student.shape[1:], teacher.shape[1:])]
    # Average pooling by integer factors.
    student, teacher = (each.unflatten(1, (size[0], -1)).unflatten(3, (size[1], -1)).mean((2, 4)).flatten(1)
                        for each in (student, teacher))
    difference = student / student.norm(dim=1, keepdim=True) - teacher / teacher.norm(dim=1, keepdim=True)
    return difference.square().mean() if form == 'code' else difference.norm(dim=1).mean() / 2


@pytest.fixture
def distil(network_config, attention_config):
    """Return the losses of one step, the distiller, and copies of both networks from before the step."""

    def run(pairs, student=None, teacher=None, **options):
        student = network(student or network_config(), 1)
        teacher = network(teacher or attention_config(widen_factor=2), 2)
        copies = copy.deepcopy(student), copy.deepcopy(teacher).eval()
        distiller = Distiller(student, teacher, [ActivationATHead(pairs, weight=7., **options)])
        return distiller.train()(*batch(), mode='loss'), distiller, copies

    return run


@pytest.mark.parametrize('form', ['code', 'paper'])
@pytest.mark.parametrize('stage, level', [
    (1, 0),
    (2, 1),
    # A larger student's map, a larger teacher's.
    (0, 0), (0, 1), (1, 1), (2, 0),
])
def test_the_teachers_map_is_compared_as_it_is(stage, level, form, distil):
    losses, _, (student, teacher) = distil([(stage, MAPS[level])], form=form)
    images, _ = batch()
    with torch.no_grad():
        expected = 7 * distance(activations(student, images)[stage], learned(teacher, images)[level], form)
    torch.testing.assert_close(losses[f'loss_at.backbone.group{stage}'], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('options', [dict(p=1), dict(reduction='max')])
def test_options_of_the_map_of_activations_do_not_change_it(options, distil):
    losses, _, (student, teacher) = distil([(1, MAPS[0])], **options)
    images, _ = batch()
    with torch.no_grad():
        feature = stages(student, images)[1]
        own = feature.abs().sum(1) if 'p' in options else feature.square().amax(1)
        expected = 7 * distance(own, learned(teacher, images)[0])
    torch.testing.assert_close(losses['loss_at.backbone.group1'], expected, rtol=1e-4, atol=1e-7)


def test_unequal_sizes_can_be_refused(distil):
    with pytest.raises(UserError, match=r'\(16, 16\).*\(8, 8\).*size_mismatch'):
        distil([(0, MAPS[0])], size_mismatch='error')
    distil([(1, MAPS[0])], size_mismatch='error')


def test_from_learned_to_learned(distil, attention_config):
    losses, distiller, (student, teacher) = distil([(path, path) for path in MAPS], student=attention_config())
    images, _ = batch()
    expected = [7 * distance(*pair) for pair in zip(learned(student, images), learned(teacher, images))]
    for path, value in zip(MAPS, expected):
        torch.testing.assert_close(losses[f'loss_at.{path}'], value, rtol=1e-4, atol=1e-7)
    total = losses['loss_at.neck.maps.0'] + losses['loss_at.neck.maps.1']
    total.backward()
    sum(expected).backward()
    reached = dict(student.named_parameters())
    for name, parameter in distiller.student.named_parameters():
        if reached[name].grad is not None:
            torch.testing.assert_close(parameter.grad, reached[name].grad, rtol=1e-3, atol=1e-6, msg=name)
    for name in ('neck.scores.0.weight', 'neck.scores.1.weight', 'backbone.conv0.weight'):
        assert distiller.student.get_parameter(name).grad.abs().sum() > 0
    for parameter in distiller.teacher.network.parameters():
        assert parameter.grad is None and not parameter.requires_grad


def test_a_level_trains_only_its_own_scores(distil, attention_config):
    losses, distiller, _ = distil([(MAPS[0], MAPS[0])], student=attention_config())
    losses['loss_at.neck.maps.0'].backward()
    assert distiller.student.neck.scores[0].weight.grad.abs().sum() > 0
    assert distiller.student.neck.scores[1].weight.grad is None


def test_from_a_stage_to_learned(distil, attention_config, network_config):
    losses, distiller, (student, teacher) = distil(
        [(MAPS[0], 1)], student=attention_config(), teacher=network_config(widen_factor=2))
    images, _ = batch()
    expected = 7 * distance(learned(student, images)[0], activations(teacher, images)[1])
    torch.testing.assert_close(losses['loss_at.neck.maps.0'], expected, rtol=1e-4, atol=1e-7)
    losses['loss_at.neck.maps.0'].backward()
    assert distiller.student.neck.scores[0].weight.grad.abs().sum() > 0


def test_maps_and_stages_in_one_head(distil, attention_config):
    # All four kinds of pairs. One student layer and one teacher layer are in two of them.
    pairs = [(1, MAPS[0]), (MAPS[0], MAPS[0]), (MAPS[1], 2), (2, 2)]
    losses, _, (student, teacher) = distil(pairs, student=attention_config())
    images, _ = batch()
    with torch.no_grad():
        own, theirs = ([*activations(model, images), *learned(model, images)] for model in (student, teacher))
    for label, s, t in (('backbone.group1', 1, 3), ('neck.maps.0', 3, 3), ('neck.maps.1', 4, 2),
                        ('backbone.group2', 2, 2)):
        torch.testing.assert_close(losses[f'loss_at.{label}'], 7 * distance(own[s], theirs[t]), rtol=1e-4, atol=1e-7)


def test_a_vgg_with_attention_teaches(distil):
    teacher = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmat.AttentionVGG', base_channels=4),
        neck=dict(type='mmat.SpatialAttentionNeck', in_channels=(16, 32, 32), global_channels=32),
        head=dict(type='mmat.ConcatClsHead', num_classes=10, in_channels=(16, 32, 32)),
        data_preprocessor=dict(type='mmat.BatchPreprocessor', mean=[77.7] * 3, std=[81.1] * 3))
    student, teacher = network(dict(teacher), 1), network(teacher, 2)
    paths = [f'neck.maps.{level}' for level in range(3)]
    distiller = Distiller(student, teacher, [ActivationATHead([(path, path) for path in paths])]).train()
    losses = distiller(*batch(32), mode='loss')
    sum(losses[f'loss_at.{path}'] for path in paths).backward()
    assert all(losses[f'loss_at.{path}'] > 0 for path in paths)
    assert all(score.weight.grad.abs().sum() > 0 for score in student.neck.scores)


# Modules of a user

class Gate(nn.Module):
    """A module whose map is the mean over channels, unlike F_sum^2; ``says`` is its ``gives_attention``."""

    def __init__(self, says=None, maps=True):
        super().__init__()
        self.maps = maps
        if says is not None:
            self.gives_attention = says

    def forward(self, x):
        return x.mean(1) if self.maps else x


class Gated(BaseModel):

    def __init__(self, gate):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.gate = gate

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.gate(self.conv(inputs))
        return dict(loss=features.mean()) if mode == 'loss' else features


def gated(student, teacher):
    torch.manual_seed(0)
    distiller = Distiller(Gated(student), Gated(teacher), [ActivationATHead([('gate', 'gate')], weight=1.)])
    images, samples = batch()
    features = [model.conv(images) for model in (distiller.student, distiller.teacher.network)]
    return distiller(images, samples, mode='loss')['loss_at.gate'], features


@pytest.mark.parametrize('student', [True, False])
@pytest.mark.parametrize('teacher', [True, False])
def test_a_module_that_declares_gives_attention(student, teacher):
    # The same path in both networks, with a map in one of them, in both or in neither.
    loss, features = gated(*(Gate(True) if says else Gate(maps=False) for says in (student, teacher)))
    maps = [feature.mean(1) if says else feature.square().sum(1)
            for feature, says in zip(features, (student, teacher))]
    torch.testing.assert_close(loss, distance(*maps), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('says', [None, False])
def test_another_layer_is_no_map(says):
    # Its output has the shape of a map.
    with pytest.raises(UserError, match=r'\(N, C, H, W\).*\(4, 14, 14\)'):
        gated(Gate(says), Gate(True))
    with pytest.raises(UserError, match=r'\(N, C, H, W\)'):
        gated(Gate(True), Gate(says))


def test_a_module_that_declares_a_map_but_outputs_none_is_refused():
    with pytest.raises(UserError, match=r'\(N, H, W\).*teacher.*\(4, 5, 14, 14\)'):
        gated(Gate(True), Gate(True, maps=False))


# Messages

def test_a_misspelt_map_gets_the_closest_as_a_suggestion(distil, attention_config):
    with pytest.raises(LayerError, match="'neck.map.0'.*teacher.*'neck.maps.0'"):
        distil([(1, 'neck.map.0')])
    with pytest.raises(LayerError, match="'neck.map.0'.*student.*'neck.maps.0'"):
        distil([('neck.map.0', MAPS[0])], student=attention_config())


# Whole runs

@pytest.fixture(scope='module')
def attentive_teacher(attention_config, tmp_path_factory):
    path = tmp_path_factory.mktemp('attentive') / 'epoch_1.pth'
    config = attention_config(widen_factor=2)
    torch.save(dict(state_dict=network(config, 5).state_dict()), path)
    return dict(model=config, checkpoint=str(path))


@pytest.mark.parametrize('learns', [False, True])
def test_a_run_saves_the_plain_student(learns, network_config, attention_config, attentive_teacher, make_runner):
    student = attention_config() if learns else network_config()
    pairs = [(path, path) for path in MAPS] if learns else [(1, MAPS[0]), (2, MAPS[1])]
    states = []
    for weight in (100., 0.):
        head = dict(type='mmat.ActivationATHead', pairs=pairs, weight=weight)
        config = dict(type='mmat.Distiller', student=student, teacher=attentive_teacher, at_heads=[head])
        runner = make_runner(copy.deepcopy(config), f'run_{len(states)}')
        runner.train()
        states.append(torch.load(f'{runner.work_dir}/epoch_2.pth')['state_dict'])
    plain = build_network(student)
    plain.load_state_dict(states[0], strict=True)
    assert all(value.isfinite().all() for value in states[0].values())
    # The teacher's attention changes the result.
    assert not torch.equal(states[0]['backbone.conv0.weight'], states[1]['backbone.conv0.weight'])
    # The teacher has not changed.
    teacher = torch.load(attentive_teacher['checkpoint'])['state_dict']
    for key, value in runner.model.teacher.network.state_dict().items():
        assert torch.equal(value, teacher[key]), key
