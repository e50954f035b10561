import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, Registry

import mmat
from mmat.errors import CheckpointError, MissingFileError, UserError
from mmat.models import WideResNet, build_network
from mmat.utils import zoo

DISTILLATION = 'wrn16-1_at-wrn16-2_1xb128_cifar10'
FILE = str(Path(__file__).parents[2] / f'configs/at/{DISTILLATION}.py')


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize('model, count', [
    ('wrn16-1_1xb128_cifar10', 175066),
    ('wrn40-2_1xb128_cifar10', 2243546),
    # Its student; no teacher file is asked for.
    (DISTILLATION, 175066),
    (FILE, 175066),
    (Config.fromfile(FILE), 175066),
], ids=str)
def test_a_network_in_eval_mode(model, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = mmat.get_model(model)
    assert parameters(network) == count
    assert not any(module.training for module in network.modules())
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_it_keeps_the_config_as_mmpretrain_does():
    network = mmat.get_model(DISTILLATION)
    assert network._config.model.type == 'mmpretrain.ImageClassifier'


def test_the_config_given_is_not_changed():
    config = Config.fromfile(FILE)
    before = config.pretty_text
    mmat.get_model(config)
    assert config.pretty_text == before


def test_keywords_change_the_model():
    network = mmat.get_model('wrn16-1_1xb128_cifar10', backbone=dict(widen_factor=2), head=dict(in_channels=128))
    assert parameters(network) == 691674


def test_images_go_through_its_own_normalisation():
    network = mmat.get_model('wrn16-1_1xb128_cifar10')
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7]))
    with torch.no_grad():
        scores = network((images.float() - mean) / std).softmax(1)
        samples = network.test_step(dict(inputs=images))
    for sample, score in zip(samples, scores):
        torch.testing.assert_close(sample.pred_score, score, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('model', ['wrn16-1_1xb128_cifar10', DISTILLATION])
def test_pretrained_is_a_checkpoint(model, tmp_path):
    trained = build_network('wrn16-1_1xb128_cifar10')
    trained.init_weights()
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / 'epoch_3.pth')
    for pretrained in (str(tmp_path / 'epoch_3.pth'), str(tmp_path)):
        network = mmat.get_model(model, pretrained=pretrained)
        for key, value in trained.state_dict().items():
            assert torch.equal(network.state_dict()[key], value), key


def test_a_path_may_be_a_path():
    assert parameters(mmat.get_model(Path(FILE))) == 175066


def test_importing_mmat_imports_nothing_else():
    code = 'import mmat, sys; assert not {"torch", "mmengine", "mmpretrain"} & sys.modules.keys()'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(FILE).parents[2])


@pytest.mark.parametrize('model, count', [
    # As torchvision counts its mobilenet_v3_small.
    ('mobilenet-v3-small_8xb128_in1k', 2542856),
    ('MobileNet-v3-small_8xb128_in1k', 2542856),
])
def test_names_of_mmpretrains_zoo(model, count):
    assert model not in mmat.list_models()
    network = mmat.get_model(model)
    assert parameters(network) == count and type(network).__name__ == 'ImageClassifier'
    assert len(network._dataset_meta['classes']) == 1000


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A name of the zoo with weights as OpenMMLab publishes them; gives their file and the network."""
    network = build_network('wrn16-1_1xb128_cifar10')
    network.init_weights()
    # As mmcls 0.x wrote them, before BN counted batches for all.
    state = {key: value for key, value in network.state_dict().items() if not key.endswith('num_batches_tracked')}
    torch.save(dict(meta=dict(CLASSES=list('abcdefghij'), epoch=100), state_dict=state), tmp_path / 'a.pth')
    digest = hashlib.sha256((tmp_path / 'a.pth').read_bytes()).hexdigest()
    file = (tmp_path / 'a.pth').rename(tmp_path / f'wrn16-1_20261101-{digest[:8]}.pth')
    monkeypatch.setitem(zoo.zoo_index(), 'wrn16-1_1xb128_cifar10',
                        {**zoo.zoo_index()['wrn16-1_1xb128_cifar10'], 'Weights': str(file)})
    return file, network


@pytest.mark.parametrize('model', ['wrn16-1_1xb128_cifar10', 'configs/wide_resnet/wrn16-1_1xb128_cifar10.py'])
def test_pretrained_is_the_zoos(model, published):
    file, trained = published
    network = mmat.get_model(model, pretrained=True)
    assert torch.equal(network.backbone.conv0.weight, trained.backbone.conv0.weight)
    assert network._dataset_meta == dict(classes=list('abcdefghij'))


def test_weights_that_are_not_the_published_ones_are_refused(published):
    file, _ = published
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for pretrained in (True, file):
        with pytest.raises(CheckpointError, match=f'SHA-256.*{file.stem[-8:]}') as error:
            mmat.get_model('wrn16-1_1xb128_cifar10', pretrained=pretrained)
        assert repr(str(file)) in str(error.value)


@pytest.mark.parametrize('arguments, error, message', [
    (('wrn16-1_1xb128_cifar', ), MissingFileError, "'wrn16-1_1xb128_cifar'.*'wrn16-1_1xb128_cifar10'"),
    (('nin-wide-nobn_1xb128_cifar10', True), CheckpointError, 'nin-wide-nobn_1xb128_cifar10.*pretrained=PATH'),
    (('wrn16-1_1xb128_cifar10', 'none.pth'), MissingFileError, "'none.pth'"),
    ((Config.fromfile(FILE), True), CheckpointError, 'config.*pretrained=PATH'),
])
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        mmat.get_model(*arguments)


def test_another_networks_weights_are_refused(tmp_path):
    torch.save(dict(state_dict=build_network('wrn16-2_1xb128_cifar10').state_dict()), tmp_path / 'epoch_1.pth')
    with pytest.raises(CheckpointError, match='epoch_1.pth.*ImageClassifier'):
        mmat.get_model('wrn16-1_1xb128_cifar10', pretrained=str(tmp_path / 'epoch_1.pth'))


def test_a_distiller_whose_student_is_a_zoo_name():
    config = Config(dict(model=dict(
        type='mmat.Distiller', student='wrn16-1_1xb128_cifar10', teacher=dict(model='x', checkpoint='y'),
        at_heads=[dict(type='mmat.ActivationATHead', pairs=[(0, 0)])])))
    assert parameters(mmat.get_model(config)) == 175066


@pytest.mark.parametrize('distilled', [False, True])
def test_types_of_a_users_own_scope(distilled, network_config, teacher_file):
    scope = f'downstream_{distilled}'
    models = Registry('model', parent=MODELS, scope=scope, locations=['tests'])

    @models.register_module()
    class Mine(WideResNet):
        pass

    model = network_config()
    model['backbone']['type'] = 'Mine'
    if distilled:
        teacher = dict(model=network_config(2), checkpoint=teacher_file)
        model = dict(type='mmat.Distiller', student=model, teacher=teacher)
    network = mmat.get_model(Config(dict(model=model, default_scope=scope)))
    assert type(network.backbone) is Mine


@pytest.mark.parametrize('device', ['gpu', 'cuda:99'])
def test_an_unknown_device(device):
    with pytest.raises(UserError, match=f"'{device}'.*'cpu'"):
        mmat.get_model('wrn16-1_1xb10_digits', device=device)
