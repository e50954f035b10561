"""tools/visualization: datasets, attention, schedules."""
import math
import re

import matplotlib.image
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from tool_runner import fails, run_tool

from mmat.datasets import Digits
from mmat.models import build_network
from mmat.tooling.samples import spaced_indices
from mmat.tooling.schedules import iterations_per_epoch, simulate_schedules
from mmat.utils.zoo import list_models

STUDENT, = list_models('wrn16-1_[0-9]*_digits')
TEACHER, = list_models('wrn16-2_[0-9]*_digits')
DISTILLATION, = list_models('wrn16-1_at-wrn16-2_*_digits')
ATTENTIVE, = list_models('wrn16-1-att3-concat-pc_*_digits')


def read_png(path):
    """Return RGB from 0 to 255."""
    return (matplotlib.image.imread(path)[..., :3] * 255).round().astype(int)


@pytest.fixture
def pictures(tmp_path):
    """A config with a folder of 2 classes x 2 pictures of 20 x 10 pixels, red on the left and blue on the right."""
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[:, :10, 0] = picture[:, 10:, 2] = 250
    for index in range(4):
        path = tmp_path / 'images' / 'ab'[index // 2] / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        matplotlib.image.imsave(path, picture)
    pipeline = [dict(type='mmpretrain.LoadImageFromFile'), dict(type='mmpretrain.Resize', scale=(16, 8)),
                dict(type='mmpretrain.RandomFlip', prob=1., direction='horizontal'), dict(type='mmpretrain.PackInputs')]
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path / 'images'), pipeline=pipeline)
    loader = dict(batch_size=2, num_workers=0, dataset=dataset, collate_fn=dict(type='pseudo_collate'))
    path = tmp_path / 'pictures.py'
    Config(dict(
        model=dict(
            type='mmpretrain.ImageClassifier',
            data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', mean=[100., 110., 120.], std=[50., 60., 70.],
                                   to_rgb=True),
            backbone=dict(type='mmat.WideResNet', depth=10, widen_factor=1),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmat.LinearClsHead', num_classes=2, in_channels=64)),
        train_dataloader=loader, test_dataloader={**loader, 'dataset': {**dataset, 'pipeline': [
            pipeline[0], pipeline[1], pipeline[3]]}})).dump(path)
    return path


# browse_dataset.py

def test_spaced_indices():
    assert spaced_indices(3, 9) == [0, 4, 8] and spaced_indices(5, 3) == [0, 1, 2] and spaced_indices(1, 3) == [0]


def test_test_images_equal_the_stored_ones(tmp_path):
    code, output = run_tool('visualization/browse_dataset.py', STUDENT, '--out-dir', tmp_path, '-p', 'test', '-n', '3',
                            '--separate')
    assert not code and 'test_concat.png' in output
    dataset = Digits('test')
    for index in (0, 398, 796):
        for kind in ('original', 'transformed'):
            assert np.array_equal(read_png(tmp_path / 'test' / f'{index:06d}_{kind}.png'),
                                  dataset.images[index].permute(1, 2, 0).numpy())
    assert len(list((tmp_path / 'test').iterdir())) == 6
    assert read_png(tmp_path / 'test_concat.png').std() > 10


def crops(picture, padding):
    """Yield every crop of a picture padded by reflection, and its mirror image."""
    height, width = picture.shape[:2]
    padded = np.pad(picture, ((padding, padding), (padding, padding), (0, 0)), 'reflect')
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[top:top + height, left:left + width]
            yield from (crop, crop[:, ::-1])


def test_training_images_are_augmented(tmp_path):
    words = [STUDENT, '-n', '6', '--separate', '-m', 'transformed', '--cfg-options',
             'model.data_preprocessor.padding=3', 'model.data_preprocessor.flip_prob=0.5',
             'train_dataloader.dataset.train_size=60']
    for folder, seed in (('a', '1'), ('b', '1'), ('c', '2')):
        code, _ = run_tool('visualization/browse_dataset.py', *words, '--out-dir', tmp_path / folder, '--seed', seed)
        assert not code
    dataset = Digits('train', train_size=60)
    moved = 0
    for index in spaced_indices(6, 60):
        first, again, other = (read_png(tmp_path / folder / 'train' / f'{index:06d}_transformed.png')
                               for folder in 'abc')
        stored = dataset.images[index].permute(1, 2, 0).numpy()
        # Up to the rounding of normalisation and back.
        assert min(np.abs(first - crop).max() for crop in crops(stored, 3)) <= 1
        assert np.array_equal(first, again)
        moved += not np.array_equal(first, other)
    assert moved > 3


@pytest.mark.parametrize('mode, drawn', [('original', {'original'}), ('transformed', {'transformed'}),
                                         ('concat', {'original', 'transformed'})])
def test_modes(mode, drawn, tmp_path, monkeypatch):
    grids = []
    monkeypatch.setattr('mmat.visualization.picture_grid.draw_picture_grid',
                        lambda cells, titles, caption: grids.append((cells, titles, caption)))
    monkeypatch.setattr('mmat.tooling.arguments.write_figure', lambda figure, path: grids.append(path))
    code, _ = run_tool('visualization/browse_dataset.py', STUDENT, '--out-dir', tmp_path, '-p', 'val', '-n', '2',
                       '-m', mode, '--separate')
    assert not code
    (cells, titles, _), path = grids
    assert path == tmp_path / f'val_{mode}.png' and [len(cell) for cell in cells] == [len(drawn)] * 2
    labels = Digits('test').labels
    assert titles == [f'0: {labels[0]}', f'796: {labels[796]}']
    assert {each.stem.split('_')[1] for each in (tmp_path / 'val').iterdir()} == drawn


@pytest.mark.parametrize('phase, red_first', [('train', False), ('test', True)])
def test_a_dataset_of_files_shows_its_pipeline(phase, red_first, pictures, tmp_path):
    """Colours are in RGB order, although files are read as BGR. The train pipeline mirrors."""
    code, _ = run_tool('visualization/browse_dataset.py', pictures, '--out-dir', tmp_path, '-p', phase, '--separate')
    assert not code
    for index in range(4):
        original = read_png(tmp_path / phase / f'{index:06d}_original.png')
        transformed = read_png(tmp_path / phase / f'{index:06d}_transformed.png')
        assert original.shape == (10, 20, 3) and transformed.shape == (8, 16, 3)
        assert original[0, 0].tolist() == [250, 0, 0] and original[0, -1].tolist() == [0, 0, 250]
        assert np.abs(transformed[0, 0 if red_first else -1] - [250, 0, 0]).max() <= 1
        assert np.abs(transformed[0, -1 if red_first else 0] - [0, 0, 250]).max() <= 1


def test_mixed_images_keep_their_first_label(network_config, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr('mmat.visualization.picture_grid.draw_picture_grid',
                        lambda cells, names, caption: titles.extend(names))
    monkeypatch.setattr('mmat.tooling.arguments.write_figure', lambda figure, path: None)
    model = network_config(train_cfg=dict(augments=dict(type='mmpretrain.Mixup', alpha=1.)))
    model['data_preprocessor']['num_classes'] = 10
    Config(dict(model=model, train_dataloader=dict(
        dataset=dict(type='mmat.Digits', split='train', size=8), collate_fn=dict(type='mmat.keep_batch')))).dump(
            tmp_path / 'mix.py')
    code, _ = run_tool('visualization/browse_dataset.py', tmp_path / 'mix.py', '--out-dir', tmp_path, '-n', '2')
    assert not code and titles == [f'{index}: {Digits("train").labels[index]}' for index in (0, 999)]


def test_the_error_names_a_missing_phase_and_the_others(pictures, tmp_path):
    message = fails('visualization/browse_dataset.py', pictures, '--out-dir', tmp_path, '-p', 'val')
    assert 'val_dataloader' in message and 'train_dataloader, test_dataloader' in message


# vis_attention.py

@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Checkpoints of untrained networks, by zoo name."""
    folder, files = tmp_path_factory.mktemp('weights'), {}
    for name in (STUDENT, TEACHER, ATTENTIVE):
        torch.manual_seed(0)
        network = build_network(name)
        network.init_weights()
        files[name] = str(folder / f'{name}.pth')
        torch.save(dict(state_dict=network.state_dict()), files[name])
    return files


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of vis_attention.py's drawing: images, attention, titles."""
    calls = []

    def render(photographs, *args):
        calls.append((torch.stack([each.image for each in photographs]), *args))
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr('mmat.visualization.render_attention_grid', render)
    return calls


def fsum2(name, file, images, groups=range(3)):
    """The formula by hand: the sum of squares over channels, of each WRN group's output."""
    network = build_network(name).eval()
    network.load_state_dict(torch.load(file)['state_dict'])
    outputs = {}
    for group in groups:
        module = getattr(network.backbone, f'group{group}')
        module.register_forward_hook(
            lambda module, args, output, group=group: outputs.update({f'group{group}': output}))
    with torch.no_grad():
        network((images.float() - 77.7) / 81.1)
    return {group: output.square().sum(1) for group, output in outputs.items()}


def check_maps(found, expected):
    assert list(found) == list(expected)
    for layer, maps in expected.items():
        assert torch.allclose(found[layer], maps, rtol=1e-4), layer


def test_attention_of_test_images(weights, drawn, tmp_path):
    code, output = run_tool('visualization/vis_attention.py', STUDENT, weights[STUDENT], '-n', '3', '--out',
                            tmp_path / 'o' / 'a.png', '--compare', f'{TEACHER}:{weights[TEACHER]}',
                            f'{STUDENT}:{weights[STUDENT]}')
    assert not code and 'a.png' in output
    (images, attention, titles), = drawn
    stored = Digits('test').images[[0, 398, 796]]
    assert torch.allclose(images * 255, stored.float(), atol=1e-3)
    assert list(titles) == [str(int(Digits('test').labels[index])) for index in (0, 398, 796)]
    # Names without batch size and dataset; a repeated name gets its checkpoint's.
    assert list(attention) == ['wrn16-1', 'wrn16-2', f'wrn16-1, {STUDENT}']
    for found, name in zip(attention.values(), (STUDENT, TEACHER, STUDENT)):
        check_maps(found, fsum2(name, weights[name], stored))
    assert read_png(tmp_path / 'o' / 'a.png').shape == (4, 4, 3)


def test_attention_of_student_and_teacher_at_compared_layers(weights, drawn, tmp_path):
    code, _ = run_tool('visualization/vis_attention.py', DISTILLATION, weights[STUDENT], '--out', tmp_path / 'a.png',
                       '-n', '2', '--split', 'train', '--teacher', '--cfg-options',
                       f'model.teacher.checkpoint={weights[TEACHER]}',
                       'model.at_heads.0.pairs=[(1,2),(1,0)]')
    assert not code
    (_, attention, _), = drawn
    stored = Digits('train', train_size=50).images[[0, 49]]
    assert list(attention) == ['student', 'teacher']
    check_maps(attention['student'], fsum2(STUDENT, weights[STUDENT], stored, [1]))
    expected = fsum2(TEACHER, weights[TEACHER], stored)
    check_maps(attention['teacher'], {layer: expected[layer] for layer in ('group2', 'group0')})


def test_attention_of_picture_files(weights, drawn, tmp_path):
    stored = Digits('test', indices=2).images
    for index, image in enumerate(stored):
        matplotlib.image.imsave(tmp_path / f'digit{index}.png', image.permute(1, 2, 0).numpy())
    code, _ = run_tool('visualization/vis_attention.py', ATTENTIVE, weights[ATTENTIVE], tmp_path / 'digit1.png',
                       '--out', tmp_path / 'a.png', '--layers', 'neck.maps.2', '0', '--', tmp_path / 'digit0.png')
    assert not code
    (images, attention, titles), = drawn
    assert list(titles) == ['digit1', 'digit0'] and torch.equal((images * 255).round(), stored.flip(0).float())
    maps, = attention.values()
    assert list(maps) == ['maps.2', 'group0']
    # A learned map is not changed: it sums to 1.
    assert torch.allclose(maps['maps.2'].sum((1, 2)), torch.ones(2))


def test_channels_are_reversed_for_a_network_with_the_other_order(pictures, drawn, tmp_path):
    """The same network with a BGR and an RGB preprocessor gives the same maps."""
    torch.manual_seed(0)
    network = build_network(str(pictures))
    network.init_weights()
    torch.save(network.state_dict(), tmp_path / 'x.pth')
    config = Config.fromfile(pictures)
    config.model.data_preprocessor = dict(type='mmat.BatchPreprocessor', mean=[100., 110., 120.], std=[50., 60., 70.])
    config.dump(tmp_path / 'rgb.py')
    code, _ = run_tool('visualization/vis_attention.py', pictures, tmp_path / 'x.pth', '--out', tmp_path / 'a.png',
                       '--compare', f'{tmp_path / "rgb.py"}:{tmp_path / "x.pth"}')
    assert not code
    (images, attention, titles), = drawn
    assert list(titles) == ['a', 'a', 'b', 'b'] and torch.allclose(images[0, :, 0, 0] * 255, torch.tensor([250., 0, 0]),
                                                                   atol=1e-3)
    bgr, rgb = attention.values()
    check_maps(bgr, rgb)


@pytest.mark.parametrize('files', [True, False])
def test_attention_lies_over_the_cropped_part_of_a_picture(files, pictures, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr('mmat.visualization.render_attention_grid',
                        lambda *args: calls.append(args) or np.zeros((4, 4, 3), np.uint8))
    torch.manual_seed(0)
    network = build_network(str(pictures))
    torch.save(network.state_dict(), tmp_path / 'x.pth')
    crop = dict(type='mmpretrain.CenterCrop', crop_size=8)
    config = Config.fromfile(pictures)
    config.test_dataloader.dataset.pipeline.insert(2, crop)
    config.dump(tmp_path / 'crop.py')
    words = [tmp_path / 'images' / 'a' / '0.png', tmp_path / 'images' / 'b' / '2.png'] if files else ['-n', '2']
    code, _ = run_tool('visualization/vis_attention.py', tmp_path / 'crop.py', tmp_path / 'x.pth', *words, '--out',
                       tmp_path / 'a.png')
    assert not code
    (photographs, attention, titles), = calls
    assert list(titles) == (['0', '2'] if files else ['a', 'b'])
    for photograph in photographs:
        # Of 20 x 10 pixels, resized to 16 x 8.
        assert photograph.box == pytest.approx((5, 0, 15, 10), abs=0.5)
        rgb = (photograph.image * 255).round().permute(1, 2, 0)
        assert rgb.shape == (10, 20, 3) and rgb[0, 0].tolist() == [250, 0, 0] and rgb[0, -1].tolist() == [0, 0, 250]
    maps, = attention.values()
    assert maps['group0'].shape == (2, 8, 8)


def test_an_attention_grid_is_drawn(weights, tmp_path):
    code, _ = run_tool('visualization/vis_attention.py', STUDENT, weights[STUDENT], '-n', '2', '--out',
                       tmp_path / 'a.png')
    assert not code
    height, width, _ = read_png(tmp_path / 'a.png').shape
    assert width > height > 100


@pytest.mark.parametrize('words, parts', [
    (['absent.pth'], ("'absent.pth'", )),
    (['CHECKPOINT', '--teacher'], ('model.teacher', )),
    (['CHECKPOINT', '--layers', 'backbone.gruop1'], ("'backbone.gruop1'", "'backbone.group1'")),
    (['CHECKPOINT', '--layers', '7'], (' 7', 'WideResNet')),
    (['CHECKPOINT', 'absent.png'], ("'absent.png'", )),
    (['CHECKPOINT', '--compare', f'{TEACHER}:CHECKPOINT'], ('CHECKPOINT', 'ImageClassifier')),
    (['CHECKPOINT', '--compare', 'wrn16-1_digits:CHECKPOINT'], ("'wrn16-1_digits'", f"'{STUDENT}'")),
    (['CHECKPOINT', '--out', 'a.jpg'], ('--out', '.png', "'a.jpg'")),
])
def test_a_mistake_with_attention_is_one_line(words, parts, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, parts = ([word.replace('CHECKPOINT', weights[STUDENT]) for word in each] for each in (words, parts))
    message = fails('visualization/vis_attention.py', STUDENT, '--out', 'a.png', *words)
    for part in parts:
        assert part in message
    assert not list(tmp_path.iterdir())


# vis_scheduler.py

class Record(Hook):
    """Records the learning rate and the heads' weights in each step."""

    priority = 'LOWEST'

    def __init__(self):
        self.lr, self.weights = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.lr.append(runner.optim_wrapper.get_lr()['lr'][0])
        self.weights.append([head.weight for head in runner.model.at_heads])


@pytest.mark.parametrize('schedulers, weight', [
    (dict(type='MultiStepLR', milestones=[1, 3], gamma=0.2), dict(type='linear', initial=8, final=2, by_epoch=False)),
    ([dict(type='LinearLR', start_factor=0.1, end=2, convert_to_iter_based=True),
      dict(type='CosineAnnealingLR', begin=2)], dict(type='step', initial=5, milestones=[1, 2], gamma=0.5)),
    ([dict(type='LinearLR', start_factor=0.5, end=3, by_epoch=False), dict(type='StepLR', step_size=1, gamma=0.5)],
     dict(type='cosine', initial=3, final=0)),
])
def test_schedules_match_a_training(schedulers, weight, make_runner, distiller_config):
    heads = [dict(type='mmat.ActivationATHead', pairs=[(0, 0)], weight=weight),
             dict(type='mmat.ActivationATHead', pairs=[(1, 1)], weight=7., name='constant')]
    model = distiller_config(at_heads=heads)
    runner = make_runner(model, epochs=4, param_scheduler=schedulers)
    record = Record()
    runner.register_hook(record)
    config = runner.cfg.copy()
    runner.train()
    found = simulate_schedules(config, length=2)
    assert found['by_epoch'] and list(found['heads']) == ['at'] and list(found['optimizer']) == ['all parameters']
    assert found['optimizer']['all parameters'].tolist() == pytest.approx(record.lr)
    assert found['heads']['at'].tolist() == pytest.approx([weights[0] for weights in record.weights])
    assert len(record.lr) == 8 and len(set(record.lr)) > 2


def test_parameter_groups_with_different_rates(network_config):
    config = Config(dict(
        model=network_config(), train_dataloader=dict(batch_size=2), train_cfg=dict(by_epoch=False, max_iters=4),
        param_scheduler=dict(type='MultiStepLR', milestones=[2], gamma=0.1, by_epoch=False),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1., momentum=0.9),
                           paramwise_cfg=dict(custom_keys={'head.fc': dict(lr_mult=0.5)}))))
    found = simulate_schedules(config, length=3)
    groups = len(list(build_network(network_config()).parameters()))
    assert not found['by_epoch']
    curves = {label: values.tolist() for label, values in found['optimizer'].items()}
    assert curves == {
        f'2 of {groups} parameter groups, initially 0.5': pytest.approx([0.5, 0.5, 0.05, 0.05]),
        f'{groups - 2} of {groups} parameter groups, initially 1': pytest.approx([1, 1, 0.1, 0.1])}
    momentum, = simulate_schedules(config, length=3, parameter='momentum')['optimizer'].values()
    assert momentum.tolist() == [0.9] * 4


@pytest.mark.parametrize('loader, dataset_size, processes, expected', [
    (dict(batch_size=128), 50000, 1, math.ceil(50000 / 128)),
    (dict(batch_size=128, drop_last=True), 50000, 1, 50000 // 128),
    (dict(batch_size=10), 121, 4, 4),  # 31 images per process
    (dict(batch_size=10, drop_last=True), 119, 4, 3),  # 30
    (dict(batch_size=10), None, 1, 5),
])
def test_iterations_per_epoch(loader, dataset_size, processes, expected):
    loader = dict(loader, dataset=dict(type='mmat.Digits', split='train', train_size=50))
    assert iterations_per_epoch(Config(dict(train_dataloader=loader)), dataset_size, processes) == expected


def test_schedules_are_drawn(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr('mmat.tooling.arguments.write_figure', lambda figure, path: figures.append(figure))
    name = 'wrn16-1_at-kd-wrn16-2_1xb128_cifar10'
    # Needs neither the data nor the teacher.
    code, output = run_tool('visualization/vis_scheduler.py', name, '-d', '1280', '-n', '2', '--out',
                            tmp_path / 's.png', '--cfg-options', 'train_cfg.max_epochs=100')
    assert not code and re.search(r'\b500 iterations, 5 ', output)
    rate, weight = figures[0].axes
    assert (rate.get_ylabel(), weight.get_ylabel(), weight.get_xlabel()) == ('learning rate', 'weight of at', 'epoch')
    x, y = rate.lines[0].get_data()
    assert x.tolist() == [0, 60, 100] and y.tolist() == pytest.approx([0.1, 0.02, 0.02])
    x, y = weight.lines[0].get_data()
    assert x == pytest.approx(np.arange(501) / 5)
    assert y[:-1] == pytest.approx(1000 - 2 * np.arange(500))


def test_a_figure_of_schedules_is_written(tmp_path):
    code, _ = run_tool('visualization/vis_scheduler.py', STUDENT, '--out', tmp_path / 's.svg', '-p', 'momentum')
    assert not code
    assert re.search('<svg', (tmp_path / 's.svg').read_text())


def test_a_missing_dataset_needs_its_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = fails('visualization/vis_scheduler.py', 'wrn16-1_1xb128_cifar10', '--out', 's.png')
    assert 'CIFAR10' in message and 'data/cifar10' in message and '--dataset-size' in message
    assert not list(tmp_path.iterdir())
