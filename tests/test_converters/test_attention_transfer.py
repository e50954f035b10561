import pytest
import torch
import torch.nn.functional as F
from random_weights import RandomWeights, batch_norm, classify, images, resnet_config

from mmat.converters import convert_attention_transfer
from mmat.errors import CheckpointError, UserError
from mmat.models import build_network
from mmat.utils.checkpoint import load_state


def cifar_weights(depth=10, width=1, classes=10, seed=0):
    """In the layout of cifar.py."""
    state = RandomWeights(seed)
    state.conv('conv0', 16, 3, 3)
    inside = 16
    for group in range(3):
        for block in range((depth - 4) // 6):
            base, out = f'group{group}.block{block}', int(16 * width) * 2**group
            state.conv(f'{base}.conv0', out, inside, 3)
            state.conv(f'{base}.conv1', out, out, 3)
            state.bn(f'{base}.bn0', inside)
            state.bn(f'{base}.bn1', out)
            if out != inside:
                state.conv(f'{base}.convdim', out, inside, 1)
            inside = out
    state.bn('bn', inside)
    state.linear('fc', classes, inside)
    return dict(state)


def cifar_network(state, x, depth):
    """The forward pass of cifar.py in eval mode, from its description."""
    x = F.conv2d(x, state['conv0'], padding=1)
    for group, stride in enumerate((1, 2, 2)):
        for block in range((depth - 4) // 6):
            base = f'group{group}.block{block}'
            step = stride if block == 0 else 1
            o1 = F.relu(batch_norm(x, state, f'{base}.bn0'))
            o2 = F.relu(batch_norm(F.conv2d(o1, state[f'{base}.conv0'], stride=step, padding=1), state, f'{base}.bn1'))
            shortcut = F.conv2d(o1, state[f'{base}.convdim'], stride=step) if f'{base}.convdim' in state else x
            x = F.conv2d(o2, state[f'{base}.conv1'], padding=1) + shortcut
    return classify(F.relu(batch_norm(x, state, 'bn')), state)


def cifar_config(depth=10, width=1, classes=10):
    return dict(
        type='mmpretrain.ImageClassifier', data_preprocessor=dict(type='mmat.BatchPreprocessor'),
        backbone=dict(type='mmat.WideResNet', depth=depth, widen_factor=width),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmat.LinearClsHead', num_classes=classes, in_channels=64 * width))


def imagenet_student_weights(blocks=(2, 2, 2, 2), width=4, classes=5):
    """In the layout of the student of imagenet.py."""
    state = RandomWeights()
    state.conv('conv0', width, 3, 7)
    state.bn('bn0', width)
    inside = width
    for group, count in enumerate(blocks):
        for block in range(count):
            base, out = f'group{group}.block{block}', width * 2**group
            state.conv(f'{base}.conv0', out, inside, 3)
            state.conv(f'{base}.conv1', out, out, 3)
            state.bn(f'{base}.bn0', out)
            state.bn(f'{base}.bn1', out)
            if out != inside:
                state.conv(f'{base}.convdim', out, inside, 1)
            inside = out
    state.linear('fc', classes, inside)
    return dict(state)


def imagenet_student(state, x):
    """The forward pass of the student of imagenet.py in eval mode, from its description."""
    x = F.relu(batch_norm(F.conv2d(x, state['conv0'], stride=2, padding=3), state, 'bn0'))
    x = F.max_pool2d(x, 3, 2, 1)
    for group in range(4):
        for block in range(2):
            base, stride = f'group{group}.block{block}', 2 if group > 0 and block == 0 else 1
            o = F.relu(batch_norm(F.conv2d(x, state[f'{base}.conv0'], stride=stride, padding=1), state, f'{base}.bn0'))
            o = batch_norm(F.conv2d(o, state[f'{base}.conv1'], padding=1), state, f'{base}.bn1')
            x = F.relu(o + (F.conv2d(x, state[f'{base}.convdim'], stride=stride) if f'{base}.convdim' in state else x))
    return classify(x, state)


def check(config, converted, expected, x):
    network = build_network(config).double().eval()
    load_state(network, converted, 'converted')
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.1


@pytest.mark.parametrize('depth, width, classes', [(10, 1, 10), (16, 1, 100), (10, 2, 10), (22, 2, 10)])
def test_equal_outputs_of_cifar_py(depth, width, classes):
    state = cifar_weights(depth, width, classes)
    x = images(16)
    check(cifar_config(depth, width, classes), convert_attention_transfer(state), cifar_network(state, x, depth), x)


def test_the_networks_of_a_file_of_student_and_teacher():
    student, teacher = cifar_weights(10, 1, seed=1), cifar_weights(16, 2, seed=2)
    both = {**{f'student.{key}': value for key, value in student.items()},
            **{f'teacher.{key}': value for key, value in teacher.items()}}
    x = images(16)
    for network, state, depth, width in (('student', student, 10, 1), ('teacher', teacher, 16, 2)):
        converted = convert_attention_transfer(both, network)
        check(cifar_config(depth, width), converted, cifar_network(state, x, depth), x)
    for network, part in ((None, '--network'), ('studnet', "'studnet'")):
        with pytest.raises(UserError, match=f"'student' .*'teacher'.*{part}"):
            convert_attention_transfer(both, network)
    with pytest.raises(CheckpointError, match="network='teacher'"):
        convert_attention_transfer(student, 'teacher')


def test_equal_outputs_of_the_student_of_imagenet_py():
    state = imagenet_student_weights()
    x = images(64)
    converted = convert_attention_transfer({f'student.{key}': value for key, value in state.items()}, 'student')
    check(resnet_config(depth=18), converted, imagenet_student(state, x), x)


def test_the_teacher_of_imagenet_py_is_a_file_of_functional_zoo():
    from test_functional_zoo import RESNET34, folded_resnet, folded_weights
    state = folded_weights(RESNET34)
    x = images(64)
    converted = convert_attention_transfer({f'teacher.{key}': value for key, value in state.items()}, 'teacher')
    check(resnet_config(depth=34), converted, folded_resnet(state, x, RESNET34), x)


@pytest.mark.parametrize('weights', [cifar_weights, imagenet_student_weights])
def test_every_weight_is_kept_once(weights):
    state = weights()
    kept = [value.data_ptr() for value in convert_attention_transfer(state).values()]
    assert all(kept.count(value.data_ptr()) == 1 for value in state.values())


@pytest.mark.parametrize('weights, change, message', [
    (cifar_weights, lambda state: state.pop('group1.block0.convdim'), r' 1 .* missing \(group1\.block0\.convdim\)'),
    (cifar_weights, lambda state: state.pop('bn.running_var'), r' 1 .* missing \(bn\.running_var\)'),
    (cifar_weights, lambda state: state.update(conv1=torch.zeros(1)), r' 1 .* unexpected \(conv1\)'),
    (cifar_weights, lambda state: state.clear(), r'cifar\.py.* \d+ .* missing \(conv0, .*, \.\.\.\)'),
    (imagenet_student_weights, lambda state: state.pop('group2.block0.convdim'), r'imagenet\.py.* missing \(group2'),
    (imagenet_student_weights, lambda state: state.update({'group0.block0.convdim': torch.zeros(4, 4, 1, 1)}),
     r' 1 .* unexpected \(group0\.block0\.convdim\)'),
])
def test_other_weights_are_refused(weights, change, message):
    state = weights()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        convert_attention_transfer(state)


def test_the_depth_34_of_imagenet_py_is_refused():
    with pytest.raises(CheckpointError, match='3, 4, 6 and 5 '):
        convert_attention_transfer(imagenet_student_weights((3, 4, 6, 5)))
