import json
import runpy
import sys
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from PIL import Image

import mmat
from mmat.apis import inferencer as module
from mmat.errors import CheckpointError, ConfigError, DataError, LayerError, MissingFileError, UserError
from mmat.models import build_network

TOOL = Path(__file__).parents[2] / 'tools' / 'infer.py'
MEAN, STD = 77.7, 81.1
PATHS = ['backbone.group0', 'backbone.group1', 'backbone.group2']
RED = np.zeros((9, 12, 3), np.uint8)
RED[..., 2] = 255  # BGR
HELD = dict(type='mmat.CIFAR10', data_root='nowhere', split='test')
FILES = dict(type='mmpretrain.CustomDataset', data_root='nowhere', pipeline=[
    dict(type='mmpretrain.LoadImageFromFile'), dict(type='mmat.CropBoundingBox'), dict(type='mmpretrain.PackInputs')])


def noise(seed, height=32, width=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(path, array):
    """Write a BGR array."""
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(array[..., ::-1]).save(path)
    return str(path)


@pytest.fixture
def config(network_config):
    """Makes whole configs of WRN-10-1."""

    def make(dataset=HELD, **kwargs):
        model = {**network_config(), **kwargs}
        if 'pipeline' in dataset:
            model['data_preprocessor'] = dict(
                type='mmpretrain.ClsDataPreprocessor', mean=[MEAN] * 3, std=[STD] * 3, to_rgb=True)
        return Config(dict(model=model, test_dataloader=dict(dataset=dataset)))

    return make


@pytest.fixture
def network(config):
    """Makes such networks."""

    def make(dataset=HELD, **kwargs):
        torch.manual_seed(0)
        return mmat.get_model(config(dataset, **kwargs))

    return make


@pytest.fixture
def seen():
    """Records the inputs of a network's backbone."""

    def record(network):
        batches = []
        network.backbone.register_forward_pre_hook(lambda _, args: batches.append(args[0].clone()))
        return batches

    return record


def normalised(array):
    """A BGR array as a network here is given it."""
    return (torch.from_numpy(array[..., ::-1].copy()).permute(2, 0, 1)[None].float() - MEAN) / STD


@torch.no_grad()
def oracle(network, array):
    """Class scores and the stages' maps, in plain PyTorch."""
    backbone = network.backbone
    first = backbone.group0(backbone.conv0(normalised(array)))
    second = backbone.group1(first)
    third = backbone.group2(second)
    scores = network.head.fc(backbone.bn(third).clamp(min=0).mean((2, 3))).softmax(1)[0]
    return scores, {path: each.square().sum(1)[0] for path, each in zip(PATHS, (first, second, third))}


def agree(result, network, array):
    scores, maps = oracle(network, array)
    torch.testing.assert_close(torch.from_numpy(result['pred_scores']), scores, rtol=1e-4, atol=1e-6)
    assert result['pred_label'] == int(scores.argmax())
    assert result['pred_score'] == pytest.approx(float(scores.max()), rel=1e-4)
    assert list(result['attention']) == PATHS
    for path, found in result['attention'].items():
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(found), maps[path], rtol=1e-3, atol=1e-4)


# Scores and attention

@pytest.mark.parametrize('dataset', [HELD, FILES], ids=['held', 'files'])
@pytest.mark.parametrize('batch_size', [1, 2, 5])
def test_scores_and_maps_are_those_of_plain_pytorch(dataset, batch_size, network, seen):
    model = network(dataset)
    arrays = [noise(seed) for seed in range(5)]
    batches = seen(model)
    results = mmat.AttentionInferencer(model)(arrays, batch_size=batch_size)
    # One pass for all.
    assert [len(batch) for batch in batches] == {1: [1] * 5, 2: [2, 2, 1], 5: [5]}[batch_size]
    assert len(results) == 5
    for result, array in zip(results, arrays):
        agree(result, model, array)


def test_sizes_that_differ_go_one_after_the_other_in_order(network, seen):
    model = network(FILES)
    arrays = [noise(0, 16, 20), noise(1, 16, 20), noise(2, 24, 16), noise(3, 16, 20)]
    batches = seen(model)
    results = mmat.AttentionInferencer(model)(arrays, batch_size=4)
    assert [tuple(batch.shape) for batch in batches] == [(2, 3, 16, 20), (1, 3, 24, 16), (1, 3, 16, 20)]
    for result, array in zip(results, arrays):
        agree(result, model, array)


@pytest.mark.parametrize('dataset', [HELD, FILES], ids=['held', 'files'])
@pytest.mark.parametrize('kind', ['array', 'PIL', 'path', 'Path', 'palette'])
def test_a_red_image_is_red_to_the_network(dataset, kind, network, seen, tmp_path):
    path = png(tmp_path / 'red.png', RED)
    source = {'array': RED, 'PIL': Image.open(path), 'path': path, 'Path': Path(path),
              'palette': Image.open(path).convert('P')}[kind]
    model = network(dataset)
    batches = seen(model)
    mmat.AttentionInferencer(model)(source)
    red, others = (255 - MEAN) / STD, -MEAN / STD
    torch.testing.assert_close(batches[0].mean((0, 2, 3)), torch.tensor([red, others, others]))
    assert batches[0].std((0, 2, 3)).max() < 1e-5


def test_learned_maps_come_first(attention_config):
    model = mmat.get_model(Config(dict(model=attention_config(), test_dataloader=dict(dataset=HELD))))
    attention = mmat.AttentionInferencer(model)(noise(0))[0]['attention']
    assert {path: each.shape for path, each in attention.items()} == {
        'neck.maps.0': (16, 16), 'neck.maps.1': (8, 8)}
    assert all(each.sum() == pytest.approx(1, rel=1e-4) for each in attention.values())


def test_layers_and_kinds_of_maps(network):
    model = network()
    outputs = {}
    block = 'backbone.group1.block0.conv0'
    model.get_submodule(block).register_forward_hook(lambda *args: outputs.update(block=args[2]))
    model.backbone.group2.register_forward_hook(lambda *args: outputs.update(last=args[2]))
    result, = mmat.AttentionInferencer(model, layers=[-1, block, 2], p=3, reduction='max')(noise(0))
    assert list(result['attention']) == ['backbone.group2', block]
    for found, output in zip(result['attention'].values(), (outputs['last'], outputs['block'])):
        torch.testing.assert_close(torch.from_numpy(found), output[0].abs().amax(0)**3, rtol=1e-3, atol=1e-4)


def test_data_samples(network):
    sample, = mmat.AttentionInferencer(network())(noise(0), return_datasamples=True)
    expected, = mmat.AttentionInferencer(network())(noise(0))
    assert torch.equal(sample.pred_score, torch.from_numpy(expected['pred_scores']))
    for path in PATHS:
        assert torch.equal(sample.attention[path], torch.from_numpy(expected['attention'][path]))


# Networks

def test_a_network_keeps_its_weights_or_takes_others(network, tmp_path):
    model = network()
    torch.manual_seed(1)
    other = build_network(model._config)
    torch.save(dict(state_dict=other.state_dict()), tmp_path / 'epoch_1.pth')
    before = model.backbone.conv0.weight.clone()
    assert mmat.AttentionInferencer(model.train()).model is model and not model.training
    assert torch.equal(model.backbone.conv0.weight, before)
    mmat.AttentionInferencer(model, pretrained=tmp_path)
    assert torch.equal(model.backbone.conv0.weight, other.backbone.conv0.weight)


@pytest.mark.parametrize('as_config', [True, False])
def test_a_config_with_a_checkpoint(as_config, config, network, tmp_path):
    model = network()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'epoch_1.pth')
    config().dump(str(tmp_path / 'config.py'))
    torch.manual_seed(1)
    inferencer = mmat.AttentionInferencer(config() if as_config else tmp_path / 'config.py', str(tmp_path))
    agree(inferencer(noise(0))[0], model, noise(0))


def test_a_distiller_is_its_student(distiller_config):
    config = Config(dict(model=distiller_config(), test_dataloader=dict(dataset=HELD)))
    model = mmpretrain.get_model(config)
    agree(mmat.AttentionInferencer(model)(noise(0))[0], model.student, noise(0))


def test_keywords_change_the_model(config):
    inferencer = mmat.AttentionInferencer(config(), False, backbone=dict(depth=16))
    assert len(inferencer.model.backbone.group0) == 2


def test_a_zoo_name_without_weights_is_refused():
    with pytest.raises(CheckpointError, match='nin-wide-nobn_1xb128_cifar10.*pretrained=PATH'):
        mmat.AttentionInferencer('nin-wide-nobn_1xb128_cifar10')


@pytest.mark.parametrize('options, error, message', [
    (dict(layers=['backbone.gruop0']), LayerError, "'backbone.gruop0'.*'backbone.group0'"),
    (dict(layers='backbone.group0'), UserError, "layers.*'backbone.group0'"),
    (dict(p=0), UserError, ' p .* 0'),
    (dict(reduction='mean'), UserError, "reduction.*'sum'.*'mean'"),
    (dict(backbone=dict(depth=16)), UserError, 'backbone'),
])
def test_options_that_are_refused(options, error, message, network):
    with pytest.raises(error, match=message):
        mmat.AttentionInferencer(network(), **options)


def test_networks_that_are_refused(network):
    with pytest.raises(UserError, match='Linear.*mmat.get_model'):
        mmat.AttentionInferencer(nn.Linear(2, 2))
    model = network()
    model._config = Config(dict(model=model._config.model))
    with pytest.raises(ConfigError, match='test_dataloader'):
        mmat.AttentionInferencer(model)
    model = network()
    model.head.predict = lambda feats, data_samples: data_samples
    with pytest.raises(UserError, match='classifier.*ImageClassifier'):
        mmat.AttentionInferencer(model)(noise(0))
    with pytest.raises(ConfigError, match='mmat.get_model'):
        mmat.AttentionInferencer(network()._config.model)


def test_a_network_without_stages_needs_layers(network):
    model = network()
    model.backbone = nn.Sequential(model.backbone)
    with pytest.raises(LayerError, match='ImageClassifier.*`layers`'):
        mmat.AttentionInferencer(model)


# Classes

@pytest.mark.parametrize('meta, expected', [
    (None, 'cat'),
    (dict(dataset_meta=dict(classes=list('abcdefghij'))), 'd'),
    (dict(CLASSES=list('klmnopqrst')), 'n'),
    (dict(epoch=3), 'cat'),
])
def test_class_names_from_the_checkpoint_or_the_dataset(meta, expected, config, network, tmp_path):
    model = network()
    nn.init.zeros_(model.head.fc.weight)
    model.head.fc.bias.data = 5. * torch.eye(10)[3]
    torch.save(dict(state_dict=model.state_dict(), **({} if meta is None else dict(meta=meta))), tmp_path / 'a.pth')
    result, = mmat.AttentionInferencer(config(), tmp_path / 'a.pth')(noise(0))
    assert result['pred_label'] == 3 and result['pred_class'] == expected


def test_class_names_that_are_given_or_not_known(network):
    model = network()
    result, = mmat.AttentionInferencer(model, classes=range(10, 20))(noise(0))
    assert result['pred_class'] == result['pred_label'] + 10
    assert 'pred_class' not in mmat.AttentionInferencer(network(FILES))(noise(0))[0]
    with pytest.raises(UserError, match='10 .* 2 .*classes='):
        mmat.AttentionInferencer(model, classes=['a', 'b'])(noise(0))


# Files

def test_json_holds_the_results(network, tmp_path):
    paths = [png(tmp_path / 'in' / f'{name}.png', noise(seed)) for seed, name in enumerate('ba')]
    results = mmat.AttentionInferencer(network())([*paths, noise(2)], out_file=tmp_path / 'new' / 'out.json')
    written = json.loads((tmp_path / 'new' / 'out.json').read_text())
    assert [each.get('img_path') for each in written] == [*paths, None]
    assert [each.name for each in (tmp_path / 'new').iterdir()] == ['out.json']
    for found, result in zip(written, results):
        assert sorted(found) == sorted(result)
        assert found['pred_label'] == result['pred_label'] and found['pred_class'] == result['pred_class']
        assert found['pred_scores'] == pytest.approx(result['pred_scores'].tolist(), rel=1e-5)
        assert max(len(repr(score)) for score in found['pred_scores']) <= 12
        for path, values in result['attention'].items():
            np.testing.assert_allclose(np.array(found['attention'][path]), values, rtol=1e-5)


def test_json_has_null_for_nan(network, tmp_path):
    model = network()
    nn.init.constant_(model.head.fc.bias, float('nan'))
    mmat.AttentionInferencer(model)(noise(0), out_file=tmp_path / 'out.json')
    written, = json.loads((tmp_path / 'out.json').read_text(), parse_constant=pytest.fail)
    assert written['pred_scores'] == [None] * 10


def test_a_damaged_image_is_named_and_earlier_results_are_kept(network, tmp_path):
    for seed, name in enumerate('abc'):
        png(tmp_path / f'{name}.png', noise(seed))
    (tmp_path / 'b.png').write_text('no picture')
    (tmp_path / 'out.json').write_text('before')
    with pytest.raises(DataError, match="b.png'"):
        mmat.AttentionInferencer(network())(tmp_path, out_file=tmp_path / 'out.json')
    assert (tmp_path / 'out.json').read_text() == 'before' and len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize('inputs, options, error, message', [
    ([noise(0), noise(0)[0]], {}, DataError, r'^Image 1: .*uint8 of shape \(32, 3\)'),
    ([noise(0), noise(0), torch.zeros(3, 4, 4)], dict(batch_size=2), DataError, '^Image 2: .* Tensor'),
    (noise(0), dict(batch_size=0), ConfigError, 'batch_size of AttentionInferencer.* 0'),
    (noise(0), dict(out_file='out.txt'), UserError, ".json.*'out.txt'"),
    ('nowhere.png', {}, MissingFileError, "'nowhere.png'"),
])
def test_a_call_with_wrong_arguments(inputs, options, error, message, network, seen):
    model = network()
    with pytest.raises(error, match=message):
        mmat.AttentionInferencer(model)(inputs, **options)


def test_a_pipeline_that_fails_names_the_image(network, tmp_path):
    path = png(tmp_path / 'a.png', noise(0))
    inferencer = mmat.AttentionInferencer(network(FILES))
    inferencer.pipeline = lambda image: 1 / 0
    # It may be a bug, so it is no UserError.
    with pytest.raises(RuntimeError, match="a.png': division by zero") as error:
        inferencer(path)
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    with pytest.raises(RuntimeError, match='image 0: division by zero'):
        inferencer(noise(0))


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of the rendering, (images, attention). The rendering itself is skipped: it is slow."""
    calls = []

    def render(images, attention, titles=(), caption=''):
        calls.append((images, attention))
        return np.full((2, 2, 3), len(calls), np.uint8)

    monkeypatch.setattr(module, 'render_attention_grid', render)
    return calls


def test_each_image_gets_its_own_file(network, drawn, tmp_path):
    paths = [png(tmp_path / folder / 'same.png', noise(0)) for folder in 'xy']
    inferencer = mmat.AttentionInferencer(network())
    results = inferencer([*paths, noise(1)], batch_size=2, show_dir=tmp_path / 'new' / 'out', return_vis=True)
    files = sorted(tmp_path.glob('new/out/*'))
    assert [file.name for file in files] == ['2.png', 'same.png', 'same_2.png']
    assert [np.asarray(Image.open(file))[0, 0, 0] for file in files] == [3, 1, 2]
    assert [result['visualization'][0, 0, 0] for result in results] == [1, 2, 3]


@pytest.mark.parametrize('dataset', [HELD, FILES], ids=['held', 'files'])
def test_the_drawn_image_is_the_input_of_the_network(dataset, network, drawn):
    array = noise(0)
    result, = mmat.AttentionInferencer(network(dataset), classes=[f'class {i}, or so' for i in range(10)])(
        array, return_vis=True)
    images, attention = drawn[0]
    assert images[0].box == (0, 0, 32, 32)
    torch.testing.assert_close(images[0].image, torch.from_numpy(array[..., ::-1].copy()).permute(2, 0, 1) / 255)
    title, = attention
    assert title == f'class {result["pred_label"]}  {result["pred_score"]:.2f}'
    assert list(attention[title]) == ['group0', 'group1', 'group2']
    for maps, expected in zip(attention[title].values(), result['attention'].values()):
        assert torch.equal(maps[0], torch.from_numpy(expected))


@pytest.mark.parametrize('height, width', [(210, 320), (320, 210)])
@pytest.mark.parametrize('dataset, box', [
    (HELD, (0, 0, 1, 1)),
    # The middle half in each direction, or of the shorter side in both.
    (dict(FILES, pipeline=[FILES['pipeline'][0], dict(type='mmpretrain.Resize', scale=(64, 64)),
                           dict(type='mmpretrain.CenterCrop', crop_size=32), FILES['pipeline'][-1]]),
     (0.25, 0.25, 0.75, 0.75)),
])
def test_maps_lie_over_the_part_that_the_network_sees(dataset, box, height, width, network, drawn, seen):
    array, model = noise(0, height, width), network(dataset)
    batches = seen(model)
    result, = mmat.AttentionInferencer(model)(array, return_vis=True)
    (photograph, ), attention = drawn[0]
    torch.testing.assert_close(photograph.image, torch.from_numpy(array[..., ::-1].copy()).permute(2, 0, 1) / 255)
    assert photograph.box == pytest.approx([side * size for side, size in zip(box, (width, height) * 2)], abs=1)
    # Drawing does not change the input of the network, the only one.
    assert [tuple(batch.shape) for batch in batches] == [(1, 3, 32, 32)]
    undrawn, = mmat.AttentionInferencer(model)(array)
    np.testing.assert_array_equal(result['pred_scores'], undrawn['pred_scores'])


def test_an_image_that_the_pipeline_rotates_is_drawn_as_the_network_sees_it(network, drawn):
    rotate = dict(type='mmpretrain.Rotate', angle=90., prob=1., random_negative_prob=0.)
    model = network(dict(FILES, pipeline=[*FILES['pipeline'][:1], rotate, FILES['pipeline'][-1]]))
    inferencer, array = mmat.AttentionInferencer(model), noise(0)
    inferencer(array, return_vis=True)
    (photograph, ), _ = drawn[0]
    inputs = inferencer.pipeline(array)['inputs']
    torch.testing.assert_close(photograph.image, inputs.flip(0) / 255)
    assert photograph.box == (0, 0, 32, 32)


def test_the_drawing_is_a_png(network, tmp_path):
    red = png(tmp_path / 'red.png', RED)
    mmat.AttentionInferencer(network(FILES), layers=[0])(red, show_dir=tmp_path / 'out')
    picture = np.asarray(Image.open(tmp_path / 'out' / 'red.png')).astype(int)
    # The image itself, whole (but for its rim): the overlay is a blend.
    rows, columns = np.where((np.abs(picture - [255, 0, 0]) <= 1).all(-1))
    assert len(rows) > 0.95 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1) > 50**2


def test_inputs_are_not_overwritten(network, drawn, tmp_path):
    path = png(tmp_path / 'a.png', noise(0))
    before = Path(path).read_bytes()
    with pytest.raises(UserError, match='show_dir.*a.png'):
        mmat.AttentionInferencer(network())(path, show_dir=tmp_path)
    assert Path(path).read_bytes() == before and not drawn


# Shortcuts

def test_inference_model(config, network, tmp_path):
    path = png(tmp_path / 'in' / 'a.png', noise(0))
    torch.save(dict(state_dict=network().state_dict()), tmp_path / 'a.pth')
    options = dict(pretrained=tmp_path / 'a.pth', layers=[1], out_file=tmp_path / 'out.json')
    result = mmat.inference_model(config(), path, **options)
    assert list(result['attention']) == ['backbone.group1'] and result['img_path'] == path
    assert len(json.loads((tmp_path / 'out.json').read_text())) == 1
    results = mmat.inference_model(config(), tmp_path / 'in', batch_size=2, **options)
    assert isinstance(results, list) and results[0]['pred_label'] == result['pred_label']
    assert isinstance(mmat.inference_model(network(), noise(0)), dict)
    assert [type(each) for each in mmat.inference_model(network(), [noise(0), noise(1)])] == [dict, dict]


def test_it_lists_our_models():
    assert mmat.AttentionInferencer.list_models('wrn16-1_at-*') == mmat.list_models('wrn16-1_at-*') != []


def test_the_command_line(config, network, tmp_path, monkeypatch, capsys):
    config().dump(str(tmp_path / 'small.py'))
    torch.save(dict(state_dict=network().state_dict()), tmp_path / 'epoch_1.pth')
    for seed, name in enumerate('ab'):
        png(tmp_path / 'in' / f'{name}.png', noise(seed))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['infer.py', *words])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOL), run_name='__main__')
        return stop.value.code

    assert not run('small.py', 'epoch_1.pth', 'in', '--layers', '-1', 'backbone.group0', '--device', 'cpu')
    written = json.loads((tmp_path / 'work_dirs/small/inference/results.json').read_text())
    assert [list(each['attention']) for each in written] == [['backbone.group2', 'backbone.group0']] * 2
    printed = capsys.readouterr().out
    assert all(f'in/{name}.png: {each["pred_class"]} (' in printed for name, each in zip('ab', written))
    assert sorted(each.name for each in (tmp_path / 'work_dirs/small/inference').iterdir()) == [
        'a.png', 'b.png', 'results.json']
    assert 'in/c.png' in run('small.py', '.', 'in/c.png', '--out-dir', 'other')
    assert 'small.py' in run('small.py', 'zoo', 'in')
    assert not (tmp_path / 'other').exists()
