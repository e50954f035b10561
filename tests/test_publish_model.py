"""tools/model_converters/publish_model.py."""
import copy
import datetime
import hashlib
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tool_runner import fails, run_tool

import mmat
from mmat.errors import FileError
from mmat.models import build_network
from mmat.tooling.publish import publish_checkpoint

TOOL = 'model_converters/publish_model.py'


@pytest.fixture(scope='module')
def config_file(tmp_path_factory, network_config, distiller_config):
    """Return a function that writes the config file of the student, its teacher or the distillation."""
    folder = tmp_path_factory.mktemp('configs')
    models = dict(student=network_config(), teacher=network_config(2), distillation=distiller_config())

    def make(name):
        path = folder / f'{name}.py'
        Config(dict(model=copy.deepcopy(models[name]), work_dir='/home/someone')).dump(path)
        return str(path)

    return make


@pytest.fixture
def trained(make_runner, distiller_config):
    """The work directory of a distillation run with averaged weights and a transfer head that has weights."""
    head = dict(type='mmat.FullActivationHead', weight=1.)
    runner = make_runner(distiller_config(head), custom_hooks=[dict(type='EMAHook', momentum=0.5)])
    runner.train()
    return Path(runner.work_dir)


def test_only_the_student_is_published(trained, config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = run_tool(TOOL, trained, 'out/net.pth', '--config', config_file('distillation'))
    assert not code
    path, = Path('out').iterdir()
    assert str(path) in output and f'{path.stat().st_size:,} bytes' in output
    assert re.fullmatch(rf'net_{datetime.date.today():%Y%m%d}-[0-9a-f]{{8}}\.pth', path.name)
    assert path.stem[-8:] == hashlib.sha256(path.read_bytes()).hexdigest()[:8]

    source, content = torch.load(trained / 'epoch_2.pth'), torch.load(path, weights_only=True)
    assert source['at_heads'] and source['ema_state_dict'] and source['optimizer']
    assert set(content) == {'meta', 'state_dict'}
    network = build_network(config_file('student'))
    assert content['state_dict'].keys() == network.state_dict().keys()
    for key, value in content['state_dict'].items():
        assert torch.equal(value, source['state_dict'][key]), key
    meta = content['meta']
    assert (meta['epoch'], meta['iter'], meta['seed'], meta['mmat_version']) == (2, 4, 0, mmat.__version__)
    assert meta['dataset_meta']['classes'] == tuple('0123456789')
    # Nothing about the training machine.
    assert 'home' not in meta['cfg'] and 'teacher' not in meta['cfg'] and 'time' not in meta

    images = torch.rand(2, 3, 8, 8)
    Path('plain.py').write_text(meta['cfg'])
    with torch.no_grad():
        network.load_state_dict(source['state_dict'])
        expected = network.eval()(images)
        for config in (config_file('student'), config_file('distillation'), 'plain.py'):
            assert torch.equal(mmat.get_model(config, pretrained=str(path))(images), expected)


def test_equal_weights_give_equal_bytes_and_no_file_is_overwritten(trained, tmp_path):
    day = datetime.date(2026, 1, 2)
    first = publish_checkpoint(trained, tmp_path / 'a.pth', date=day)
    second = publish_checkpoint(str(trained / 'epoch_2.pth'), tmp_path / 'b', date=day)
    assert first.name[1:] == second.name[1:] and first.read_bytes() == second.read_bytes()
    assert first.name.startswith('a_20260102-')
    before = first.stat().st_mtime_ns
    assert publish_checkpoint(trained, tmp_path / 'a.pth', date=day) == first and first.stat().st_mtime_ns == before
    first.write_bytes(b'other')
    with pytest.raises(FileError, match=first.name):
        publish_checkpoint(trained, tmp_path / 'a.pth', date=day)
    assert first.read_bytes() == b'other' and not list(tmp_path.glob('.*'))


def test_averaged_or_trained_weights_are_published(trained, tmp_path):
    source = torch.load(trained / 'epoch_2.pth')
    averaged, plain = (torch.load(publish_checkpoint(trained, tmp_path / 'x', ema=ema))['state_dict']
                       for ema in (True, False))
    assert averaged.keys() == plain.keys() == source['state_dict'].keys()
    weight = 'backbone.conv0.weight'
    assert not torch.equal(averaged[weight], plain[weight])
    for key in plain:
        assert torch.equal(averaged[key], source['state_dict'][key])
        assert torch.equal(plain[key], source['ema_state_dict'][f'module.{key}'])


def test_no_ema_needs_averaged_weights(tmp_path):
    torch.save(dict(state_dict=dict(a=torch.ones(2))), tmp_path / 'x.pth')
    message = fails(TOOL, tmp_path / 'x.pth', tmp_path / 'y', '--no-ema')
    assert str(tmp_path / 'x.pth') in message and '--no-ema' in message


def test_half_precision_rounds_and_loads(config_file, tmp_path):
    torch.manual_seed(0)
    network = build_network(config_file('student'))
    network.init_weights()
    torch.save(network.state_dict(), tmp_path / 'x.pth')
    full, half = (publish_checkpoint(tmp_path / 'x.pth', tmp_path / 'y', half=half) for half in (False, True))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = mmat.get_model(config_file('student'), pretrained=str(half)).state_dict()
    for key, value in network.state_dict().items():
        assert loaded[key].dtype == value.dtype
        assert torch.allclose(loaded[key], value, rtol=2**-11, atol=2**-24), key


def test_values_outside_the_range_of_float16_are_refused(tmp_path):
    torch.save(dict(state_dict={'bn.running_var': torch.tensor([1., 70000.])}), tmp_path / 'x.pth')
    message = fails(TOOL, tmp_path / 'x.pth', tmp_path / 'y', '--half')
    assert all(part in message for part in ('bn.running_var', '70000', '--half'))
    assert len(list(tmp_path.iterdir())) == 1


def test_views_and_strides_are_not_published(tmp_path):
    large = torch.arange(2. * 10**5)
    torch.save(dict(state_dict={'module.a': large[:4].view(2, 2).t(), 'b': large[:2]}), tmp_path / 'x.pth')
    path = publish_checkpoint(tmp_path / 'x.pth', tmp_path / 'y')
    value = torch.load(path)['state_dict']['a']
    assert value.is_contiguous() and value.tolist() == [[0, 2], [1, 3]] and path.stat().st_size < 5000


@pytest.mark.parametrize('words, message', [
    (['x.pth', 'y', '--config', 'TEACHER'], r"'x\.pth'.* ImageClassifier"),
    (['absent.pth', 'y'], r"'absent\.pth'"),
    (['x.pth', 'y', '--config', 'wrn16-1_digits'], "'wrn16-1_digits'.*'wrn16-1_.*_digits'"),
    (['empty.pth', 'y'], r"'empty\.pth'.* state_dict"),
])
def test_a_mistake_is_one_line_and_no_file(words, message, config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(build_network(config_file('student')).state_dict(), 'x.pth')
    torch.save(dict(state_dict={}), 'empty.pth')
    words = [config_file('teacher') if word == 'TEACHER' else word for word in words]
    assert re.search(message, fails(TOOL, *words))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['empty.pth', 'x.pth']
