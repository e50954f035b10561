import pytest
import torch
import torch.nn.functional as F

from mmat.converters import convert_learn_to_pay_attention
from mmat.errors import CheckpointError
from mmat.models import build_network
from mmat.utils.checkpoint import load_state

BLOCKS = [(1, 3, 64, 2), (2, 64, 128, 2), (3, 128, 256, 3), (4, 256, 512, 3), (5, 512, 512, 3), (6, 512, 512, 2)]


def source_weights(attention=True, classes=100, kernel=1, scale=1):
    """Random weights in the layout of the re-implementation's net.pth; ``scale`` divides its widths."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        fan_in = max(1, torch.zeros(shape)[0].numel())
        return torch.randn(shape, generator=generator, dtype=torch.float64) * (2 / fan_in)**0.5

    state = {}
    for block, first, width, count in BLOCKS:
        first, width = first if first == 3 else first // scale, width // scale
        for conv in range(count):
            # The last block pools after each convolution.
            place = conv * (4 if block == 6 else 3)
            state[f'conv_block{block}.op.{place}.weight'] = draw(width, first if conv == 0 else width, 3, 3)
            state[f'conv_block{block}.op.{place}.bias'] = draw(width) / 9
            bn = f'conv_block{block}.op.{place + 1}'
            state[f'{bn}.weight'] = 1 + draw(width).abs()
            state[f'{bn}.bias'] = draw(width) / 9
            state[f'{bn}.running_mean'] = draw(width) / 9
            state[f'{bn}.running_var'] = 1 + draw(width).square()
            state[f'{bn}.num_batches_tracked'] = torch.tensor(7)
    width = 512 // scale
    state['dense.weight'], state['dense.bias'] = draw(width, width, kernel, kernel), draw(width)
    if attention:
        state['projector.op.weight'] = draw(width, width // 2, 1, 1)
        for level in (1, 2, 3):
            state[f'attn{level}.op.weight'] = draw(1, width, 1, 1)
    state['classify.weight'], state['classify.bias'] = draw(classes, width * (3 if attention else 1)), draw(classes)
    return state


def forward(state, x, after, attention=True, softmax=True):
    """The re-implementation's forward pass in eval mode, written from its description."""

    def block(x, number, count, pools=False):
        for conv in range(count):
            place = conv * (4 if pools else 3)
            name, bn = f'conv_block{number}.op.{place}', f'conv_block{number}.op.{place + 1}'
            x = F.conv2d(x, state[f'{name}.weight'], state[f'{name}.bias'], padding=1)
            x = F.relu(F.batch_norm(x, state[f'{bn}.running_mean'], state[f'{bn}.running_var'], state[f'{bn}.weight'],
                                    state[f'{bn}.bias'], eps=1e-5))
            x = F.max_pool2d(x, 2) if pools else x
        return x

    def attend(local, g, level):
        scores = F.conv2d(local + g, state[f'attn{level}.op.weight'])
        if not softmax:
            return (scores.sigmoid() * local).mean((2, 3))
        weights = scores.flatten(2).softmax(2).view_as(scores)
        return (weights * local).sum((2, 3))

    locals_ = []
    x = block(block(x, 1, 2), 2, 2)
    for number, count in ((3, 3), (4, 3), (5, 3)):
        x = block(x, number, count)
        pooled = F.max_pool2d(x, 2)
        locals_.append(pooled if after else x)
        x = pooled
    g = F.conv2d(block(x, 6, 2, pools=True), state['dense.weight'], state['dense.bias'])
    if attention:
        locals_[0] = F.conv2d(locals_[0], state['projector.op.weight'])
        joined = torch.cat([attend(local, g, level) for level, local in enumerate(locals_, start=1)], dim=1)
    else:
        joined = g.flatten(1)
    return F.linear(joined, state['classify.weight'], state['classify.bias'])


def config(after, attention=True, softmax=True, classes=100, scale=1, image_size=32):
    width = 512 // scale
    model = dict(
        type='mmpretrain.ImageClassifier', data_preprocessor=dict(type='mmat.BatchPreprocessor'),
        backbone=dict(
            type='mmat.AttentionVGG', arch='reimplementation', position='after_pool' if after else 'before_pool',
            out_indices=(0, 1, 2) if attention else (), base_channels=64 // scale, image_size=image_size),
        head=dict(type='mmat.ConcatClsHead', num_classes=classes, norm=False, dropout=0.,
                  in_channels=(width, ) * (3 if attention else 1)))
    if attention:
        model['neck'] = dict(
            type='mmat.SpatialAttentionNeck', in_channels=(width // 2, width, width), global_channels=width, bias=False,
            project='local', normalization='softmax' if softmax else 'sigmoid')
    return model


@pytest.mark.parametrize('after', [False, True])
@pytest.mark.parametrize('attention, softmax', [(True, True), (True, False), (False, True)])
def test_equal_outputs(after, attention, softmax):
    state = source_weights(attention, scale=8)
    network = build_network(config(after, attention, softmax, scale=8)).double().eval()
    load_state(network, convert_learn_to_pay_attention(state), 'converted')
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = forward(state, images, after, attention, softmax)
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)
    # The other variant gives other outputs.
    if attention:
        assert (forward(state, images, not after, attention, softmax) - expected).abs().max() > 1e-3


def test_equal_outputs_for_larger_images():
    # The kernel of its last convolution is im_size / 32.
    state = source_weights(kernel=2, scale=16)
    network = build_network(config(False, scale=16, image_size=80)).double().eval()
    load_state(network, convert_learn_to_pay_attention(state), 'converted')
    images = torch.randn(1, 3, 80, 80, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), forward(state, images, False), rtol=1e-9, atol=1e-9)


def test_weights_trained_on_several_gpus_or_by_an_old_torch():
    state = source_weights(scale=8)
    expected = convert_learn_to_pay_attention(state)
    assert convert_learn_to_pay_attention({f'module.{key}': value for key, value in state.items()}).keys() == \
        expected.keys()
    old = {key: value for key, value in state.items() if 'num_batches' not in key}
    converted = convert_learn_to_pay_attention(old)
    assert converted.keys() == {key for key in expected if 'num_batches' not in key}
    load_state(build_network(config(False, scale=8)), converted, 'converted')


def test_every_weight_is_kept_once():
    state = source_weights(scale=8)
    converted = convert_learn_to_pay_attention(state)
    assert len(converted) == len(state)
    assert {value.data_ptr() for value in converted.values()} == {value.data_ptr() for value in state.values()}


@pytest.mark.parametrize('change, message', [
    (lambda state: state.pop('attn2.op.weight'), r' 1 .* missing \(attn2\.op\.weight\)'),
    (lambda state: state.update({'layer1.0.conv1.weight': torch.zeros(1)}), r' 1 .* unexpected \(layer1\.0\.conv1\.w'),
    (lambda state: state.clear(), r' \d+ .* missing \(conv_block1\.op\.0\.weight, .*, \.\.\.\)'),
    # Attention weights without the projector are not a network without attention.
    (lambda state: state.pop('projector.op.weight'), r' 3 .* unexpected \(attn1\.op\.weight'),
])
def test_other_weights_are_refused(change, message):
    state = source_weights(scale=16)
    change(state)
    with pytest.raises(CheckpointError, match=f'LearnToPayAttention.*{message}'):
        convert_learn_to_pay_attention(state)
