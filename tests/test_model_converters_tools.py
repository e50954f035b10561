"""The converters' command lines, as a user runs them."""
import contextlib
import io
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from mmat import get_model
from mmat.converters import convert_torchvision
from mmat.models import build_network
from mmat.tooling.convert import matching_config, network_name

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / 'tools' / 'model_converters'
# Reference networks from the tests of the converters.
sys.path.insert(0, str(ROOT / 'tests' / 'test_converters'))
from random_weights import float32, images, resnet_config  # noqa: E402
from test_attention_transfer import cifar_network, cifar_weights, imagenet_student_weights  # noqa: E402
from test_functional_zoo import RESNET18, at_resnet, at_weights, folded_resnet, folded_weights  # noqa: E402
from test_learn_to_pay_attention import forward as reimplementation  # noqa: E402
from test_learn_to_pay_attention import source_weights  # noqa: E402


def run(name, *words):
    """Run a tool in this process; return its output and the message with which it exits, if any."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setattr(sys, 'argv', [str(TOOLS / name), *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOLS / name), run_name='__main__')
    return output.getvalue(), stop.value.code


def write_config(path, model):
    path.write_text(f'model = {model!r}\n')
    return path


def write_hickle(path, state):
    h5py = pytest.importorskip('h5py')
    with h5py.File(path, 'w') as file:
        for key, value in state.items():
            file[f'data_0/{key}/data_0'] = value.numpy()


def write_model_pt7(path, **content):
    # The file format of that time.
    torch.save({**content, 'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]}, 'epoch': 3}, path,
               _use_new_zipfile_serialization=False)


def check(config, checkpoint, expected, x):
    network = get_model(str(config), pretrained=str(checkpoint)).to(x.dtype)
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_the_student_of_attention_transfer(tmp_path):
    state = float32(at_weights(width=64, classes=1000))
    write_hickle(tmp_path / 'resnet-18-at-export.hkl', state)
    out, error = run('functional_zoo.py', tmp_path / 'resnet-18-at-export.hkl', tmp_path / 'new' / 'at.pth')
    assert not error and 'for affine-resnet18_8xb32_in1k' in out
    x = images(64, count=1).float()
    check('affine-resnet18_8xb32_in1k', tmp_path / 'new' / 'at.pth', at_resnet(state, x), x)
    checkpoint = torch.load(tmp_path / 'new' / 'at.pth', weights_only=True)
    assert checkpoint['meta'] == dict(source='szagoruyko/functional-zoo')


@pytest.mark.parametrize('suffix', ['.hkl', '.pth'])
def test_a_user_config(tmp_path, suffix):
    state, source = float32(folded_weights(RESNET18, projection_bias=False)), tmp_path / f'resnet-18-export{suffix}'
    write_hickle(source, state) if suffix == '.hkl' else torch.save(state, source)
    config = write_config(tmp_path / 'thin.py', resnet_config(depth=18))
    out, error = run('functional_zoo.py', source, tmp_path / 'out.pth', '--config', config)
    assert not error and f'for {config}' in out
    x = images(64).float()
    check(config, tmp_path / 'out.pth', folded_resnet(state, x, RESNET18), x)


@pytest.mark.parametrize('words, state, depth, config', [
    ([], 'student', 16, 'wrn16-1_1xb128_cifar10'),
    (['--network', 'teacher'], 'teacher', 16, 'wrn16-2_1xb128_cifar10'),
    (['--network', 'student'], 'student', 16, 'wrn16-1_1xb128_cifar10'),
])
def test_networks_of_cifar_py(tmp_path, words, state, depth, config):
    networks = dict(student=float32(cifar_weights(16, 1)), teacher=float32(cifar_weights(16, 2, seed=1)))
    params = networks['student'] if not words else {
        f'{name}.{key}': value for name, weights in networks.items() for key, value in weights.items()}
    write_model_pt7(tmp_path / 'model.pt7', params=params)
    out, error = run('attention_transfer.py', tmp_path / 'model.pt7', tmp_path / 'out.pth', *words)
    assert not error and f'for {config}' in out and 'CIFAR-100' not in out
    x = images(16).float()
    check(config, tmp_path / 'out.pth', cifar_network(networks[state], x, depth), x)


def test_separate_running_statistics(tmp_path):
    # As saved before PyTorch 0.4.
    state = float32(cifar_weights(16, 2, classes=100))
    stats = {key: state.pop(key) for key in list(state) if 'running' in key}
    write_model_pt7(tmp_path / 'model.pt7', params=state, stats=stats)
    out, error = run('attention_transfer.py', tmp_path / 'model.pt7', tmp_path / 'out.pth')
    assert not error and 'for wrn16-2_1xb64_cifar100' in out and 'model.data_preprocessor.mean=[125.3,' in out
    x = images(16).float()
    check('wrn16-2_1xb64_cifar100', tmp_path / 'out.pth', cifar_network({**state, **stats}, x, 16), x)


def test_torchvision_models(tmp_path):
    torch.manual_seed(0)
    source = torchvision.models.resnet18().eval()
    torch.save(source.state_dict(), tmp_path / 'resnet18.pth')
    out, error = run('torchvision_models.py', tmp_path / 'resnet18.pth', tmp_path / 'out.pth')
    assert not error and 'for resnet18_8xb32_in1k' in out
    x = images(64).float()
    with torch.no_grad():
        check('resnet18_8xb32_in1k', tmp_path / 'out.pth', source(x), x)


def test_a_config_of_mmpretrains_zoo():
    with torch.device('meta'):
        state = torchvision.models.resnet50().state_dict()
    assert matching_config(convert_torchvision(state), 'it') == 'resnet50_8xb32_in1k'


def test_the_reimplementation_of_learn_to_pay_attention(tmp_path):
    state = {key: value.float() if value.is_floating_point() else value for key, value in source_weights().items()}
    torch.save({f'module.{key}': value for key, value in state.items()}, tmp_path / 'net.pth')
    out, error = run('learn_to_pay_attention.py', tmp_path / 'net.pth', tmp_path / 'out.pth')
    assert not error
    x, state = images(32, count=1), {key: value.double() for key, value in state.items()}
    for after in ('', '-after'):
        config = f'vgg-reimpl-att3-concat-pc{after}_1xb128_cifar100'
        assert config in out
        check(config, tmp_path / 'out.pth', reimplementation(state, x, bool(after)), x)


def timm_config(path, name, width=None):
    """A config of the whole model, or of a backbone if the width of its head is given."""
    if width is None:
        # The default loss has no scope prefix.
        return write_config(path, dict(
            type='mmpretrain.TimmClassifier', model_name=name, num_classes=5,
            loss=dict(type='mmpretrain.CrossEntropyLoss')))
    config = resnet_config(head_width=width)
    return write_config(path, {**config, 'backbone': dict(type='mmpretrain.TIMMBackbone', model_name=name)})


@pytest.mark.parametrize('width', [None, 96])
def test_timm_models(tmp_path, width):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    source = timm.create_model('test_resnet', num_classes=5).eval()
    torch.save(source.state_dict(), tmp_path / 'timm.pth')
    config = timm_config(tmp_path / 'config.py', 'test_resnet', width)
    out, error = run('timm_models.py', tmp_path / 'timm.pth', tmp_path / 'out.pth', '--config', config)
    assert not error and f'for {config}' in out
    x = images(64).float()
    with torch.no_grad():
        check(config, tmp_path / 'out.pth', source(x), x)


def test_timm_models_that_do_not_end_with_pooling_are_refused(tmp_path):
    timm = pytest.importorskip('timm')
    # It normalises after pooling: names and shapes fit, outputs differ.
    torch.manual_seed(0)
    torch.save(timm.create_model('test_convnext', num_classes=5).state_dict(), tmp_path / 'timm.pth')
    words = tmp_path / 'timm.pth', tmp_path / 'out.pth', '--config'
    _, error = run('timm_models.py', *words, timm_config(tmp_path / 'backbone.py', 'test_convnext', 64))
    assert all(part in error for part in ('test_convnext', 'TIMMBackbone', 'TimmClassifier'))
    assert not (tmp_path / 'out.pth').exists()
    _, error = run('timm_models.py', *words, timm_config(tmp_path / 'whole.py', 'test_convnext'))
    assert not error


@pytest.mark.parametrize('tool, content, words, parts', [
    ('functional_zoo.py', lambda: folded_weights(RESNET18), [], ('source.pth', 'ResNet', ' 5 classes', '--config')),
    ('functional_zoo.py', lambda: folded_weights(RESNET18), ['--config', 'resnet18_8xb32_in1k'],
     ('source.pth', 'ImageClassifier')),
    ('functional_zoo.py', lambda: folded_weights(RESNET18), ['--config', 'resnet18_8xb32_in'], (
        "'resnet18_8xb32_in'", "'resnet18_8xb32_in1k'")),
    ('functional_zoo.py', lambda: cifar_weights(), [], ('functional-zoo', '(conv0.weight, ')),
    ('attention_transfer.py', lambda: cifar_weights(), [], ('source.pth', '`params`', 'conv0, ')),
    ('attention_transfer.py', lambda: dict(params=cifar_weights(10, 1.5)), [], (
        'source.pth', 'wrn10-1.5 ', ' 10 classes', '--config')),
    ('attention_transfer.py', lambda: dict(params=cifar_weights(16, 1, 7)), [], ('wrn16-1 ', ' 7 classes', '--config')),
    ('attention_transfer.py', lambda: dict(params=cifar_weights()), ['--network', 'teacher'], (
        "'teacher'", '--network')),
    ('attention_transfer.py', lambda: dict(params=imagenet_student_weights((3, 4, 6, 5))), [], ('3, 4, 6 and 5 ', )),
    ('learn_to_pay_attention.py', lambda: source_weights(classes=7, scale=16), [], (
        'source.pth', ' 7 classes', '--config')),
    ('learn_to_pay_attention.py', lambda: source_weights(classes=10, scale=16),
     ['--config', 'vgg-reimpl_1xb128_cifar10'], ('source.pth', 'ImageClassifier')),
    ('learn_to_pay_attention.py', lambda: source_weights(classes=10, scale=16),
     ['--config', 'vgg-reimp_1xb128_cifar10'], ("'vgg-reimp_1xb128_cifar10'", "'vgg-reimpl_1xb128_cifar10'")),
    ('torchvision_models.py', lambda: cifar_weights(), [], ('torchvision', '(features.0.weight, ')),
    ('timm_models.py', lambda: cifar_weights(), [], ('TimmClassifier', 'TIMMBackbone', '--config')),
    ('timm_models.py', lambda: cifar_weights(), ['--config', 'resnet18_8xb32_in1k'], ("'ResNet'", )),
])
def test_a_mistake_is_one_line(tmp_path, tool, content, words, parts):
    torch.save(content(), tmp_path / 'source.pth')
    _, error = run(tool, tmp_path / 'source.pth', tmp_path / 'out.pth', *words)
    assert isinstance(error, str) and error.startswith(f'{tool}: error: ')
    for part in parts:
        assert part in error
    assert len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['source.pth']


@pytest.mark.parametrize('config', [
    'resnet18_8xb32_in1k', 'resnet34_8xb32_in1k', 'wide-resnet50-2_8xb32_in1k', 'affine-resnet18_8xb32_in1k',
    'vgg11_8xb32_in1k', 'vgg16bn_8xb32_in1k', 'vgg19_8xb32_in1k', 'wrn16-1_1xb128_cifar10', 'wrn40-2_1xb128_cifar10'])
def test_network_names_match_the_zoo(config):
    # mmpretrain's ResNet cannot be built on the meta device.
    with torch.device('cpu' if '-resnet' in config or config.startswith('resnet') else 'meta'):
        state = build_network(config).state_dict()
    assert network_name(state) == config.split('_')[0]
