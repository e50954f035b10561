import pytest
import torch
import torch.nn.functional as F
from random_weights import RandomWeights, classify, float32, images, resnet_config

from mmat.converters import convert_functional_zoo
from mmat.errors import CheckpointError
from mmat.models import build_network
from mmat.utils.checkpoint import load_state

RESNET18, RESNET34 = (2, 2, 2, 2), (3, 4, 6, 3)


def folded_weights(blocks, bottleneck=False, projection_bias=True, width=4, stem=4, classes=5):
    """In the layout of resnet-{18,34}-export (basic blocks) or wide-resnet-50-2-export (bottlenecks)."""
    state = RandomWeights()

    def conv(name, out, inside, kernel, bias=True):
        state.conv(f'{name}.weight', out, inside, kernel)
        if bias:
            state.vector(f'{name}.bias', out)

    conv('conv0', stem, 3, 7)
    inside = stem
    for group, count in enumerate(blocks):
        middle = width * 2**group
        out = 2 * middle if bottleneck else middle
        for block in range(count):
            base = f'group{group}.block{block}'
            if bottleneck:
                conv(f'{base}.conv0', middle, inside, 1)
                conv(f'{base}.conv1', middle, middle, 3)
                conv(f'{base}.conv2', out, middle, 1)
            else:
                conv(f'{base}.conv0', out, inside, 3)
                conv(f'{base}.conv1', out, out, 3)
            if block == 0 and (group > 0 or bottleneck):
                conv(f'{base}.conv_dim', out, inside, 1, projection_bias)
            inside = out
    state.linear('fc', classes, inside)
    return dict(state)


def folded_resnet(state, x, blocks, bottleneck=False):
    """The forward pass of the notebooks, from their description."""

    def conv(x, name, stride=1, padding=0):
        return F.conv2d(x, state[f'{name}.weight'], state.get(f'{name}.bias'), stride, padding)

    x = F.max_pool2d(F.relu(conv(x, 'conv0', 2, 3)), 3, 2, 1)
    for group, count in enumerate(blocks):
        for block in range(count):
            base, stride = f'group{group}.block{block}', 2 if group > 0 and block == 0 else 1
            if bottleneck:
                out = F.relu(conv(x, f'{base}.conv0'))
                out = F.relu(conv(out, f'{base}.conv1', stride, 1))
                out = conv(out, f'{base}.conv2')
            else:
                out = F.relu(conv(x, f'{base}.conv0', stride, 1))
                out = conv(out, f'{base}.conv1', 1, 1)
            projected = f'{base}.conv_dim.weight' in state
            x = F.relu(out + (conv(x, f'{base}.conv_dim', stride) if projected else x))
    return classify(x, state)


def at_weights(width=4, classes=5, blocks=RESNET18):
    """In the layout of resnet-18-at-export."""
    state = RandomWeights()

    def affine(name, width):
        state.vector(f'{name}.a', width, 1)
        state.vector(f'{name}.b', width)

    state.conv('conv0', width, 3, 7)
    affine('affine0', width)
    inside = width
    for group, count in enumerate(blocks):
        for block in range(count):
            base, out = f'group{group}.block{block}', width * 2**group
            if (group, block) != (0, 0):
                affine(f'{base}.affine0', inside)
            affine(f'{base}.affine1', out)
            state.conv(f'{base}.conv0', out, inside, 3)
            state.conv(f'{base}.conv1', out, out, 3)
            if group > 0 and block == 0:
                state.conv(f'{base}.conv_dim', out, inside, 1)
            inside = out
    affine('affine_last', inside)
    state.linear('fc', classes, inside)
    return dict(state)


def at_resnet(state, x):
    """The forward pass of resnet-18-at-export.ipynb, from its description."""

    def activate(x, name):
        return F.relu(x * state[f'{name}.a'].view(1, -1, 1, 1) + state[f'{name}.b'].view(1, -1, 1, 1))

    x = F.max_pool2d(activate(F.conv2d(x, state['conv0'], stride=2, padding=3), 'affine0'), 3, 2, 1)
    for group in range(4):
        first, second, stride = f'group{group}.block0', f'group{group}.block1', 1 if group == 0 else 2
        # The first block's shortcut is its input; in other groups it is a projection of the activated input.
        start = x if group == 0 else activate(x, f'{first}.affine0')
        out = F.conv2d(start, state[f'{first}.conv0'], stride=stride, padding=1)
        out = F.conv2d(activate(out, f'{first}.affine1'), state[f'{first}.conv1'], padding=1)
        x = out + (start if group == 0 else F.conv2d(start, state[f'{first}.conv_dim'], stride=stride))
        out = F.conv2d(activate(x, f'{second}.affine0'), state[f'{second}.conv0'], padding=1)
        x = x + F.conv2d(activate(out, f'{second}.affine1'), state[f'{second}.conv1'], padding=1)
    return classify(activate(x, 'affine_last'), state)


def at_config(width=4, classes=5):
    config = resnet_config(classes, 8 * width)
    return {**config, 'backbone': dict(type='mmat.AffineResNet', base_channels=width)}


def check(config, state, expected, x):
    network = build_network(config).double().eval()
    load_state(network, convert_functional_zoo(state), 'converted')
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.1


@pytest.mark.parametrize('depth, blocks', [(18, RESNET18), (34, RESNET34)])
@pytest.mark.parametrize('projection_bias', [False, True])
def test_equal_outputs_of_basic_blocks(depth, blocks, projection_bias):
    state = folded_weights(blocks, projection_bias=projection_bias)
    x = images(64)
    check(resnet_config(depth=depth), state, folded_resnet(state, x, blocks), x)


def test_equal_outputs_of_bottlenecks():
    state = folded_weights(RESNET34, bottleneck=True)
    x = images(64)
    check(resnet_config(depth=50, expansion=2, head_width=64), state, folded_resnet(state, x, RESNET34, True), x)


def test_equal_outputs_of_the_student_of_attention_transfer():
    state = at_weights()
    x = images(64)
    check(at_config(), state, at_resnet(state, x), x)


def test_equal_outputs_in_float32():
    # sqrt(running_var + eps) must be exactly 1.
    state = float32(folded_weights(RESNET18))
    network = build_network(resnet_config(depth=18)).eval()
    load_state(network, convert_functional_zoo(state), 'converted')
    x = images(64).float()
    with torch.no_grad():
        torch.testing.assert_close(network(x), folded_resnet(state, x, RESNET18), rtol=1e-5, atol=1e-5)
    variances = [value for key, value in network.state_dict().items() if key.endswith('running_var')]
    assert len(variances) == 20
    assert all(((value + torch.tensor(1e-5)).sqrt() == 1).all() for value in variances)


@pytest.mark.parametrize('weights, expected', [
    # Published for resnet-34-export and resnet-18-at-export, computed from the layout for the other two.
    (lambda: folded_weights(RESNET34, width=64, stem=64, classes=1000), 21789160),
    (lambda: at_weights(width=64, classes=1000), 11687720),
    (lambda: folded_weights(RESNET18, width=64, stem=64, classes=1000, projection_bias=False), 11683816),
    (lambda: folded_weights(RESNET34, True, width=128, stem=64, classes=1000), 68849128),
], ids=['resnet-34-export', 'resnet-18-at-export', 'resnet-18-export', 'wide-resnet-50-2-export'])
def test_every_value_of_the_source_is_kept_once(weights, expected):
    with torch.device('meta'), pytest.MonkeyPatch.context() as patch:
        # Shapes are all that matters.
        patch.setattr(RandomWeights, 'draw', lambda self, *shape: torch.empty(shape))
        state = weights()
    assert sum(value.numel() for value in state.values()) == expected
    kept = [id(value) for value in convert_functional_zoo(state).values()]
    assert all(kept.count(id(value)) == 1 for value in state.values())


def test_weights_of_a_whole_network_are_complete():
    # mmengine's loader only warns about missing keys.
    network = build_network(resnet_config(depth=18))
    network.load_state_dict(convert_functional_zoo(folded_weights(RESNET18)), strict=True)


@pytest.mark.parametrize('weights, change, message', [
    (folded_weights, lambda state: state.pop('group2.block1.conv0.bias'), r' 1 .* missing \(group2\.block1\.conv0\.b'),
    (folded_weights, lambda state: state.pop('group1.block0.conv_dim.bias'), r' 1 .* missing \(group1\.block0\.conv_d'),
    (folded_weights, lambda state: state.update({'bn.weight': torch.zeros(1)}), r' 1 .* unexpected \(bn\.weight\)'),
    (folded_weights, lambda state: state.clear(), r' \d+ .* missing \(conv0\.weight, .*, \.\.\.\)'),
    (at_weights, lambda state: state.pop('affine_last.b'), r'resnet-18-at-export.* 1 .* missing \(affine_last\.b\)'),
    (at_weights, lambda state: state.update({'group0.block0.affine0.a': torch.zeros(1)}), r' 1 .* unexpected \(group0'),
    # Without affine_last.a, an at-export is read as the other kind and refused.
    (at_weights, lambda state: state.pop('affine_last.a'), r'missing .*unexpected \(conv0, '),
])
def test_other_weights_are_refused(weights, change, message):
    state = weights(blocks=RESNET18)
    change(state)
    with pytest.raises(CheckpointError, match=f'(?=.*functional-zoo).*{message}'):
        convert_functional_zoo(state)
