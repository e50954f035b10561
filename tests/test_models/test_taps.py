import weakref

import pytest
import torch
import torch.nn as nn

from mmat.errors import ConfigError, LayerError
from mmat.models import AttentionWeights, SpatialAttentionNeck
from mmat.models.taps import EarlyExit, find_layer, gives_attention, tap


class Backbone(nn.Module):
    """Two stages that double and triple, then an activation that runs twice."""

    stage_names = ('group0', 'group1')

    def __init__(self, inplace=False):
        super().__init__()
        self.group0 = Scale(2)
        self.group1 = Scale(3)
        self.unused = Scale(5)
        self.relu = nn.ReLU(inplace)
        self.pair = Pair()
        self.single = Single()

    def forward(self, x):
        x = self.relu(self.group0(x))
        x = self.relu(self.group1(x) - 1)
        self.pair(x)
        return self.single(x)


class Scale(nn.Module):

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Pair(nn.Module):

    def forward(self, x):
        return x, x


class Single(nn.Module):

    def forward(self, x):
        return (x + 10, )


class Network(nn.Module):

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = Backbone(**kwargs)

    def forward(self, x):
        return self.backbone(x)


class Holder(nn.Module):
    """A model around any backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


X = torch.tensor([[1., -1.]])


# Names to modules

@pytest.mark.parametrize('layer, path', [
    (0, 'backbone.group0'),
    (1, 'backbone.group1'),
    (-1, 'backbone.group1'),
    (-2, 'backbone.group0'),
    ('backbone.group0', 'backbone.group0'),
    ('backbone', 'backbone'),
    ('backbone.relu[1]', 'backbone.relu[1]'),
])
def test_find_layer(layer, path):
    assert find_layer(Network(), layer) == path


def test_stages_of_mmpretrain_backbones():
    from mmpretrain.models import ResNet, VisionTransformer
    assert find_layer(Holder(ResNet(18, stem_channels=8, base_channels=8)), 2) == 'backbone.layer3'
    arch = dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=8)
    assert find_layer(Holder(VisionTransformer(arch, img_size=32)), -1) == 'backbone.layers.2'


@pytest.mark.parametrize('layer', [2, -3, 99])
def test_a_stage_index_out_of_range_is_refused(layer):
    with pytest.raises(LayerError, match=rf'student .*stage {layer}: Backbone .*0 to 1'):
        find_layer(Network(), layer, owner='student')


@pytest.mark.parametrize('model, example', [
    (nn.Linear(1, 1), None), (Holder(nn.Linear(1, 1)), "'backbone'"), (Holder(nn.Sequential(nn.ReLU())), "'backbone'")])
def test_a_stage_index_of_a_network_without_stages_is_refused(model, example):
    with pytest.raises(LayerError, match=rf'stage 3: .*student \({type(model).__name__}\).*`stage_names`') as error:
        find_layer(model, 3, owner='student')
    assert (example or '`stage_names`') in str(error.value)


@pytest.mark.parametrize('layer, close', [
    ('backbone.gruop1', 'backbone.group1'),
    ('group0', 'backbone.group0'),
    ('backbone.group0.', 'backbone.group0'),
    ('backbone.rellu[1]', 'backbone.relu'),
])
def test_a_misspelt_path_gets_the_closest_as_suggestions(layer, close):
    with pytest.raises(LayerError) as error:
        find_layer(Network(), layer, owner='teacher')
    message, suggestions = str(error.value).split('teacher (Network)')
    assert repr(layer) in message and repr(close) in suggestions


def test_a_path_unlike_all_others_gets_the_top_level_modules():
    with pytest.raises(LayerError, match="'zzzzzzzzzzzzzzzzzzzzzz'.*'backbone'") as error:
        find_layer(Network(), 'zzzzzzzzzzzzzzzzzzzzzz')
    assert 'group0' not in str(error.value)


@pytest.mark.parametrize('layer', [None, 1.0, True, ['backbone'], b'backbone'])
def test_a_layer_of_another_type_is_refused(layer):
    with pytest.raises(ConfigError) as error:
        find_layer(Network(), layer)
    assert repr(layer) in str(error.value)


def test_the_whole_model_is_no_layer():
    with pytest.raises(LayerError, match="''.*'backbone'"):
        find_layer(Network(), '')


# Layers that output attention maps

class Declares(nn.Module):

    def __init__(self, value):
        super().__init__()
        self.gives_attention = value


@pytest.mark.parametrize('path, expected', [
    ('neck.maps.0', True),
    ('neck.maps.1', True),
    # One call of a module.
    ('neck.maps.1[0]', True),
    ('weights[3]', True),
    ('weights', True),
    ('yes', True),
    ('no', False),
    # Neither their parents nor their siblings.
    ('neck', False),
    ('neck.maps', False),
    ('neck.scores.0', False),
    ('backbone', False),
    ('backbone.relu[1]', False),
])
def test_gives_attention(path, expected):
    model = nn.ModuleDict(dict(
        backbone=Backbone(), neck=SpatialAttentionNeck((3, 4), 4), weights=AttentionWeights('sigmoid'),
        yes=Declares(1), no=Declares(False)))
    assert gives_attention(model, find_layer(model, path)) is expected


# Modules to tensors

@pytest.mark.parametrize('path, expected', [
    ('backbone.group0', [[2., -2.]]),
    ('backbone.relu[0]', [[2., 0.]]),
    ('backbone.group1', [[6., 0.]]),
    ('backbone.relu[1]', [[5., 0.]]),
    # From a tuple of one tensor.
    ('backbone.single', [[15., 10.]]),
    ('backbone', [[15., 10.]]),
])
def test_tap_collects_the_outputs(path, expected):
    model = Network()
    with tap(model, [path]) as taps:
        model(X)
    assert taps.keys() == {path}
    assert taps[path].tolist() == expected


def test_several_taps_at_once():
    model = Network()
    paths = ['backbone.relu[1]', 'backbone.group1', 'backbone.relu[0]']
    with tap(model, paths) as taps:
        model(X)
    assert {path: value.tolist() for path, value in taps.items()} == {
        'backbone.relu[1]': [[5., 0.]], 'backbone.group1': [[6., 0.]], 'backbone.relu[0]': [[2., 0.]]}


def test_the_networks_output_is_unchanged_and_gradients_flow_through_taps():
    model, x = Network(), X.clone().requires_grad_()
    with tap(model, ['backbone.group0']) as taps:
        out, = model(x)
    assert out.tolist() == [[15., 10.]]
    gradient, = torch.autograd.grad(taps['backbone.group0'].sum(), x)
    assert gradient.tolist() == [[2., 2.]]


def test_no_paths_no_hooks():
    model = Network()
    with tap(model, []) as taps:
        assert hooks(model) == 0
        model(X)
    assert taps == {}


def test_hooks_exist_only_within_the_context():
    model = Network()
    with tap(model, ['backbone.group0', 'backbone.relu[1]', 'backbone.relu[0]']):
        assert hooks(model) == 2
        model(X)
    assert hooks(model) == 0


def test_hooks_are_removed_if_the_forward_pass_raises():
    model = Network()
    with pytest.raises(TypeError, match='unsupported operand'):
        with tap(model, ['backbone.group0', 'backbone.unused']):
            model(None)
    assert hooks(model) == 0


def test_hooks_are_removed_if_a_tap_is_refused():
    model = Network()
    with pytest.raises(LayerError, match="'backbone.unused'"):
        with tap(model, ['backbone.unused']):
            model(X)
    assert hooks(model) == 0


def test_other_hooks_stay():
    model = Network()
    model.backbone.group0.register_forward_hook(lambda *args: None)
    with tap(model, ['backbone.group0']):
        model(X)
    assert hooks(model) == 1


def test_no_activation_outlives_the_taps():
    model = Network()
    with tap(model, ['backbone.group0', 'backbone.relu[1]']) as taps:
        model(X)
    references = [weakref.ref(value) for value in taps.values()]
    assert all(reference() is not None for reference in references)
    taps.clear()
    assert [reference() for reference in references] == [None, None]


def test_taps_of_two_networks_nest():
    student, teacher = Network(), Network()
    teacher.backbone.group0.factor = 7
    with tap(student, ['backbone.group0']) as inner, tap(teacher, ['backbone.group0']) as outer:
        student(X)
        teacher(X)
    assert inner['backbone.group0'].tolist() == [[2., -2.]]
    assert outer['backbone.group0'].tolist() == [[7., -7.]]


def refused(path, model=None, forward=None):
    model = model or Network()
    with pytest.raises(LayerError) as error:
        with tap(model, [path], owner='student'):
            (forward or model)(X)
    message = str(error.value)
    assert 'student' in message and repr(path) in message
    return message


def test_a_layer_that_is_not_run():
    message = refused('backbone.unused')
    assert "'backbone'" in message
    # It is not suggested instead of itself.
    assert message.count("'backbone.unused'") == 1


def test_a_layer_that_runs_twice_needs_an_index():
    message = refused('backbone.relu')
    assert ' 2 times' in message
    assert "'backbone.relu[0]' to 'backbone.relu[1]'" in message


def test_two_forward_passes_in_one_context_are_two_calls():
    model = Network()
    message = refused('backbone.group0', model, lambda x: (model(x), model(x)))
    assert ' 2 times' in message and "'backbone.group0[0]' to 'backbone.group0[1]'" in message


def test_an_index_beyond_the_calls():
    message = refused('backbone.relu[2]')
    assert "'backbone.relu' was run 2 " in message and "'backbone.relu[1]'" in message


@pytest.mark.parametrize('grad', [True, False])
def test_an_output_overwritten_in_place_is_refused(grad):
    with torch.set_grad_enabled(grad):
        message = refused('backbone.group0', Network(inplace=True))
    assert 'inplace' in message


def test_the_layer_that_overwrites_can_be_tapped_itself():
    model = Network(inplace=True)
    with tap(model, ['backbone.relu[0]', 'backbone.relu[1]']) as taps:
        model(X)
    assert taps['backbone.relu[0]'].tolist() == [[2., 0.]]
    assert taps['backbone.relu[1]'].tolist() == [[5., 0.]]


def test_several_tensors_are_refused():
    assert 'outputs tuple' in refused('backbone.pair')


def test_other_outputs_are_refused():

    class Dict(nn.Module):

        def forward(self, x):
            return dict(x=x)

    assert 'outputs dict' in refused('0', nn.Sequential(Dict()))


def test_inference_mode_works():
    model = Network()
    with torch.inference_mode(), tap(model, ['backbone.group0']) as taps:
        model(X)
    assert taps['backbone.group0'].tolist() == [[2., -2.]]


# Early exit

def test_a_pass_ends_after_the_last_layer_that_is_read():
    network, early_exit, ran = Network(), EarlyExit(), []
    network.backbone.pair.register_forward_hook(lambda *args: ran.append('pair'))
    network.backbone.group1.register_forward_hook(lambda *args: ran.append('group1'))
    outputs = []
    for _ in range(3):
        output = None
        with tap(network, ['backbone.relu[1]', 'backbone.group0'], early_exit=early_exit) as taps:
            output = network(X)
        outputs.append(output)
        with tap(network, ['backbone.relu[1]', 'backbone.group0']) as whole:
            network(X)
        assert taps.keys() == whole.keys()
        assert all(torch.equal(taps[path], whole[path]) for path in whole)
        assert not any(module._forward_hooks for module in network.modules()
                       if module not in (network.backbone.pair, network.backbone.group1))
    # The first pass counts; each whole one runs both.
    assert outputs[0] is not None and outputs[1:] == [None, None]
    assert ran == ['group1', 'pair'] * 2 + ['group1', 'group1', 'pair'] * 2


def test_a_failed_pass_sets_no_count():
    network, early_exit = Network(), EarlyExit()
    with pytest.raises(LayerError, match="'backbone.unused'"):
        with tap(network, ['backbone.unused'], early_exit=early_exit):
            network(X)
    with pytest.raises(ZeroDivisionError):
        with tap(network, ['backbone.group0'], early_exit=EarlyExit()):
            network(X)
            raise ZeroDivisionError
    with tap(network, ['backbone.group0'], early_exit=EarlyExit()) as taps:
        network(X)
    assert torch.equal(taps['backbone.group0'], 2 * X)
