import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, VISBACKENDS
from mmengine.visualization.vis_backend import BaseVisBackend
from mmpretrain.structures import DataSample
from PIL import Image

import mmat.engine.hooks.attention_visualization_hook as module
from mmat.datasets import Digits
from mmat.engine import AttentionVisualizationHook
from mmat.errors import ConfigError, LayerError, UserError
from mmat.models import build_network, get_attention_maps

MEAN, STD = [125.3, 123.0, 113.9], [63.0, 62.1, 66.7]


@VISBACKENDS.register_module(force=True)
class Recorder(BaseVisBackend):
    """Stores the images that it receives."""

    def __init__(self, save_dir=None):
        super().__init__(save_dir)
        self.pictures = []

    def _init_env(self):
        pass

    experiment = property(lambda self: self)

    def add_image(self, name, image, step=0, **kwargs):
        self.pictures.append((name, image, step))


@DATASETS.register_module(force=True)
class Photographs(torch.utils.data.Dataset):
    """Read image by image, as mmpretrain's datasets are: BGR where there is colour."""

    def __init__(self, channels=3, classes=True, colour=None, noise=False):
        self.rgb = torch.randint(0, 256, (20, channels, 8, 8), dtype=torch.uint8,
                                 generator=torch.Generator().manual_seed(0))
        if colour:
            self.rgb[:] = torch.tensor(colour).view(3, 1, 1)
        self.noise = noise
        if classes:
            self.metainfo = dict(classes=[f'class {i}' for i in range(10)])

    def __len__(self):
        return len(self.rgb)

    def __getitem__(self, index):
        if self.noise:
            torch.rand(1), np.random.rand()
        return dict(inputs=self.rgb[index].flip(0), data_samples=DataSample().set_gt_label(index * 3 % 10))


def loader(dataset, collate='mmat.keep_batch'):
    return dict(batch_size=4, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type=collate))


def on(dataset=None, collate='mmat.keep_batch'):
    """Settings of a run with a test set."""
    dataset = dataset or dict(type='mmat.Digits', split='test', size=8, indices=12)
    return dict(test_dataloader=loader(dataset, collate), test_evaluator=dict(type='mmpretrain.Accuracy'),
                test_cfg=dict())


PHOTOGRAPHS = on(dict(type='Photographs'), 'pseudo_collate')


def drawing(num_images=2, **options):
    return dict(custom_hooks=[dict(type='mmat.AttentionVisualizationHook', num_images=num_images, **options)],
                visualizer=dict(vis_backends=[dict(type='Recorder')]))


def sent(runner):
    return runner.visualizer.get_backend('Recorder').pictures


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of the rendering, (images, attention, titles). The rendering itself is skipped: it is slow."""
    calls = []

    def render(images, attention, titles=(), caption=''):
        calls.append((torch.stack([each.image for each in images]), attention, titles))
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(module, 'render_attention_grid', render)
    return calls


@pytest.fixture
def draw_once(make_runner, drawn):
    """Draws before the first step, without training. Returns the arguments of the rendering and the runner."""

    def draw(model, options=None, **settings):
        runner = make_runner(model, **settings)
        AttentionVisualizationHook(**{'num_images': 2, **(options or {})}).before_train(runner)
        return (*drawn[-1], runner)

    return draw


def same_maps(found, expected):
    assert [name for name in found] == [path.split('.', 1)[1] for path in expected]
    for value, other in zip(found.values(), expected.values()):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-7)


# When

@pytest.mark.parametrize('options, epochs, steps', [
    (dict(interval=2), 5, [0, 2, 4, 5]),
    (dict(interval=2), 4, [0, 2, 4]),
    (dict(interval=1), 2, [0, 1, 2]),
    ({}, 3, [0, 3]),
    # Two steps an epoch.
    (dict(interval=3, by_epoch=False), 4, [0, 3, 6, 8]),
    (dict(interval=3, by_epoch=False), 3, [0, 3, 6]),
])
def test_steps(options, epochs, steps, network_config, make_runner, drawn):
    runner = make_runner(network_config(), epochs=epochs, **on(), **drawing(**options))
    runner.train()
    assert [(name, step) for name, _, step in sent(runner)] == [('attention', step) for step in steps]


def test_an_iteration_based_loop(network_config, make_runner, drawn):
    runner = make_runner(network_config(), **on(), **drawing(interval=2, by_epoch=False), train_cfg=dict(
        _delete_=True, by_epoch=False, max_iters=5))
    runner.train()
    assert [step for _, _, step in sent(runner)] == [0, 2, 4, 5]


def test_a_resumed_run_goes_on_where_it_was(network_config, make_runner, drawn):
    make_runner(network_config(), epochs=1, **on()).train()
    runner = make_runner(network_config(), epochs=4, resume=True, **on(), **drawing(interval=2))
    runner.train()
    assert [step for _, _, step in sent(runner)] == [2, 4]


def test_loading_weights_is_a_new_run(network_config, make_runner, drawn, tmp_path):
    make_runner(network_config(), epochs=1).train()
    runner = make_runner(network_config(), 'second', epochs=1, load_from=f'{tmp_path}/run/epoch_1.pth', **on(),
                         **drawing())
    runner.train()
    assert [step for _, _, step in sent(runner)] == [0, 1]
    # The weights that were loaded, and then others.
    before = build_network(network_config()).eval()
    before.load_state_dict(torch.load(f'{tmp_path}/run/epoch_1.pth')['state_dict'])
    images = runner.test_dataloader.dataset.images[[0, 11]]
    same_maps(drawn[0][1][''], get_attention_maps(before, images))
    assert not torch.equal(drawn[0][1]['']['group2'], drawn[1][1]['']['group2'])


@pytest.mark.parametrize('option', ['interval', 'num_images'])
def test_an_option_below_one_is_refused(option):
    for value in (0, 'x', 1.5):
        with pytest.raises(ConfigError, match=f'{option} of AttentionVisualizationHook.*{value!r}'):
            AttentionVisualizationHook(**{option: value})


def test_layers_must_be_a_list():
    with pytest.raises(UserError, match="'neck.maps.0'"):
        AttentionVisualizationHook(layers='neck.maps.0')


# Where to

def test_backends_get_rgb_pictures(network_config, make_runner, tmp_path):
    red = on(dict(type='Photographs', colour=(255, 0, 0)), 'pseudo_collate')
    preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', mean=MEAN, std=STD, to_rgb=True)
    backends = [dict(type=name) for name in ('Recorder', 'LocalVisBackend', 'TensorboardVisBackend')]
    runner = make_runner({**network_config(), 'data_preprocessor': preprocessor}, epochs=1, **red,
                         **{**drawing(num_images=1), 'visualizer': dict(vis_backends=backends)})
    runner.train()
    pictures = {step: picture for _, picture, step in sent(runner)}
    assert list(pictures) == [0, 1]
    for picture in pictures.values():
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        # The image itself, once and whole (but for its rim): the overlays are blends.
        rows, columns = np.where((np.abs(picture.astype(int) - [255, 0, 0]) <= 1).all(-1))
        assert len(rows) > 0.95 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1) > 50**2
    files = sorted(tmp_path.glob('run/*/vis_data/vis_image/*'))
    assert [path.name for path in files] == ['attention_0.png', 'attention_1.png']
    for step, path in enumerate(files):
        assert np.array_equal(np.asarray(Image.open(path)), pictures[step])
    runner.visualizer.close()
    assert events(tmp_path) == [(step, picture.shape) for step, picture in pictures.items()]


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    path, = folder.glob('run/*/vis_data/events.out.tfevents.*')
    return [(event.step, (event.height, event.width, 3))
            for event in EventAccumulator(str(path), dict(images=0)).Reload().Images('attention')]


@pytest.mark.parametrize('by_epoch', [True, False])
def test_only_the_main_process_draws(by_epoch, network_config, make_runner, drawn, monkeypatch):
    runner = make_runner(network_config(), **on())
    hook = AttentionVisualizationHook(interval=1, by_epoch=by_epoch, num_images=2)
    hook.before_train(runner)
    drawn.clear()
    with monkeypatch.context() as other:
        other.setattr('mmengine.dist.utils.is_main_process', lambda group=None: False)
        hook.before_train(runner)
        hook.after_train_epoch(runner)
        hook.after_train_iter(runner, 0)
    assert not drawn
    hook.after_train_epoch(runner)
    hook.after_train_iter(runner, 0)
    assert len(drawn) == 1


def test_a_wrapped_model_is_unwrapped(network_config, make_runner, drawn):
    runner = make_runner(network_config(), **on())
    model, runner.model = runner.model, nn.DataParallel(runner.model)
    AttentionVisualizationHook(num_images=2).before_train(runner)
    same_maps(drawn[0][1][''], get_attention_maps(model.eval(), runner.test_dataloader.dataset.images[[0, 11]]))


# Which images

@pytest.mark.parametrize('size, num_images, expected', [
    (50, 4, [0, 16, 32, 49]),
    (50, 8, [0, 7, 14, 21, 28, 35, 42, 49]),
    (50, 1, [0]),
    (50, 2, [0, 49]),
    (12, 12, list(range(12))),
    # No more than there are.
    (5, 8, [0, 1, 2, 3, 4]),
])
def test_images_at_equal_distances_and_their_classes(size, num_images, expected, network_config, draw_once):
    dataset = dict(type='mmat.Digits', split='test', size=8, indices=size)
    images, _, titles, runner = draw_once(network_config(), dict(num_images=num_images), **on(dataset))
    dataset = runner.test_dataloader.dataset
    torch.testing.assert_close(images, dataset.images[expected] / 255, rtol=0, atol=1e-6)
    assert list(titles) == [str(int(dataset.labels[index])) for index in expected]


def test_eight_images_every_ten_epochs_by_default(network_config, make_runner, drawn):
    hook = AttentionVisualizationHook()
    hook.before_train(make_runner(network_config(), **on()))
    assert (hook.interval, hook.by_epoch, len(drawn[0][0]), len(drawn[0][2])) == (10, True, 8, 8)


def test_the_test_set_comes_before_the_validation_set(network_config, draw_once):
    dataset = dict(type='mmat.Digits', split='test', size=8, indices=range(100, 120))
    images, _, _, runner = draw_once(network_config(), validate=True, **on(dataset))
    torch.testing.assert_close(images, Digits('test', size=8).images[[100, 119]] / 255, rtol=0, atol=1e-6)


def test_the_validation_set_where_there_is_no_test_set(network_config, draw_once):
    images, *_ = draw_once(network_config(), validate=True)
    torch.testing.assert_close(images, Digits('test', size=8).images[[0, 49]] / 255, rtol=0, atol=1e-6)


def test_neither_is_refused_before_the_first_step(network_config, make_runner):
    runner = make_runner(network_config(), **drawing())
    with pytest.raises(ConfigError, match='test_dataloader.*val_dataloader'):
        runner.train()
    assert runner.iter == 0


def test_images_in_files_are_shown_whole(network_config, make_runner, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(module, 'render_attention_grid',
                        lambda images, *args: calls.append(images) or np.zeros((2, 2, 3), np.uint8))
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    (tmp_path / 'images' / 'a').mkdir(parents=True)
    Image.fromarray(rgb).save(tmp_path / 'images' / 'a' / '0.png')
    steps = [dict(type='LoadImageFromFile'), dict(type='CenterCrop', crop_size=10), dict(type='PackInputs')]
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path / 'images'), _scope_='mmpretrain',
                   pipeline=[{**step, 'type': f'mmpretrain.{step["type"]}'} for step in steps])
    preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', mean=MEAN, std=STD, to_rgb=True)
    runner = make_runner({**network_config(), 'data_preprocessor': preprocessor}, **on(dataset, 'default_collate'))
    hook = AttentionVisualizationHook()
    hook.before_train(runner)
    (photograph, ), = calls
    torch.testing.assert_close(photograph.image, torch.from_numpy(rgb).permute(2, 0, 1) / 255)
    assert photograph.box == pytest.approx((10, 5, 20, 15), abs=0.5)
    assert hook._batch.shape == (1, 3, 10, 10)


@pytest.mark.parametrize('normalisation', [dict(mean=MEAN, std=STD), {}])
def test_images_read_one_by_one_are_shown_as_they_were(normalisation, network_config, draw_once):
    preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=True, **normalisation)
    images, attention, titles, runner = draw_once({**network_config(), 'data_preprocessor': preprocessor},
                                                  dict(num_images=3), **PHOTOGRAPHS)
    dataset = runner.test_dataloader.dataset
    assert not hasattr(dataset, '__getitems__')
    rgb = dataset.rgb[[0, 9, 19]].float()
    torch.testing.assert_close(images, rgb / 255, rtol=0, atol=1 / 255)
    assert titles == ['class 0', 'class 7', 'class 7']
    # The network too sees RGB.
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    with torch.no_grad():
        stem = runner.model.backbone.conv0((rgb - mean) / std if normalisation else rgb)
        first = runner.model.backbone.eval().group0(stem)
    torch.testing.assert_close(attention['']['group0'], first.square().sum(1), rtol=1e-4, atol=1e-3)


def test_grey_images_are_shown_grey(network_config, draw_once):
    model = network_config()
    model['data_preprocessor'].update(mean=[77.7], std=[81.1])
    model['backbone']['in_channels'] = 1
    images, _, _, runner = draw_once(model, **on(dict(type='Photographs', channels=1), 'pseudo_collate'))
    grey = runner.test_dataloader.dataset.rgb[[0, 19]] / 255
    torch.testing.assert_close(images, grey.expand(-1, 3, -1, -1), rtol=0, atol=1e-6)


def test_classes_without_names_have_no_titles(network_config, draw_once):
    _, _, titles, _ = draw_once(network_config(), **on(dict(type='Photographs', classes=False), 'pseudo_collate'))
    assert len(titles) == 0


# What of the network

def test_the_maps_that_it_learns(attention_config, draw_once):
    _, attention, _, runner = draw_once(attention_config(), **on())
    expected = get_attention_maps(runner.model.eval(), runner.test_dataloader.dataset.images[[0, 11]])
    assert list(attention) == [''] and list(expected) == ['neck.maps.0', 'neck.maps.1']
    same_maps(attention[''], expected)
    assert all(torch.allclose(maps.sum((1, 2)), torch.ones(2)) for maps in attention[''].values())


def test_the_stages_where_it_learns_none(network_config, draw_once):
    _, attention, _, runner = draw_once(network_config(), **on())
    assert list(attention) == [''] and list(attention['']) == ['group0', 'group1', 'group2']
    same_maps(attention[''], get_attention_maps(runner.model.eval(), runner.test_dataloader.dataset.images[[0, 11]]))


def test_chosen_layers(attention_config, draw_once):
    layers = [-1, 'neck.maps.0', 'backbone.conv0']
    _, attention, _, runner = draw_once(attention_config(), dict(layers=layers), **on())
    assert list(attention['']) == ['group2', 'maps.0', 'conv0']
    same_maps(attention[''], get_attention_maps(runner.model.eval(), runner.test_dataloader.dataset.images[[0, 11]],
                                                layers))


def test_student_and_teacher(distiller_config, network_config, teacher_file, draw_once):
    # A teacher that sees other images than the student.
    teacher = network_config(widen_factor=2, mean=20., std=50.)
    model = distiller_config(teacher=dict(model=teacher, checkpoint=teacher_file))
    _, attention, _, runner = draw_once(model, dict(layers=[0, -1]), **on())
    assert list(attention) == ['student', 'teacher']
    images = runner.test_dataloader.dataset.images[[0, 11]]
    same_maps(attention['student'], get_attention_maps(runner.model.student.eval(), images, [0, 2]))
    teacher = build_network(teacher).eval()
    teacher.load_state_dict(torch.load(teacher_file)['state_dict'])
    # `layers` are the student's.
    same_maps(attention['teacher'], get_attention_maps(teacher, images, [0, 1, 2]))


def test_a_distillation_run_draws_both_every_time(distiller_config, make_runner, drawn):
    make_runner(distiller_config(), **on(), **drawing(interval=1)).train()
    assert [list(attention) for _, attention, _ in drawn] == [['student', 'teacher']] * 3
    first, *_, last = [attention for _, attention, _ in drawn]
    assert torch.equal(first['teacher']['group2'], last['teacher']['group2'])
    assert not torch.equal(first['student']['group2'], last['student']['group2'])


def test_without_a_teacher_only_the_student(distiller_config, draw_once):
    model = distiller_config(at_heads=[dict(type='mmat.GradientNormHead', weight=1.)], teacher=None)
    assert list(draw_once(model, **on())[1]) == ['student']


def test_a_teacher_that_no_head_reads_is_not_asked_for(distiller_config, network_config, draw_once):
    model = distiller_config(at_heads=[dict(type='mmat.GradientNormHead', weight=1.)],
                             teacher=dict(model=network_config(), checkpoint='absent.pth'))
    assert list(draw_once(model, **on())[1]) == ['student']


@pytest.mark.parametrize('distils', [False, True])
def test_a_misspelt_layer_stops_the_run_before_the_first_step(distils, network_config, distiller_config, make_runner):
    runner = make_runner(distiller_config() if distils else network_config(), **on(),
                         **drawing(layers=['backbone.gruop0']))
    with pytest.raises(LayerError, match="'backbone.gruop0'.*'backbone.group0'"):
        runner.train()
    assert runner.iter == 0


# Training is not touched

def draw_a_number(module, args):
    torch.rand(1)


@pytest.mark.parametrize('options', [dict(interval=1), dict(interval=1, by_epoch=False)])
@pytest.mark.parametrize('distils', [False, True])
def test_training_is_the_same_to_the_bit(options, distils, attention_config, distiller_config, make_runner, drawn):
    model = distiller_config(student=attention_config()) if distils else attention_config()
    assert model.get('student', model)['data_preprocessor']['flip_prob']
    states = []
    for settings in ({}, {**on(), **drawing(**options)}):
        runner = make_runner(model, f'run_{len(states)}', **settings)
        assert any(isinstance(each, nn.Dropout) and each.p for each in runner.model.modules())
        # A network may draw in eval mode too.
        getattr(runner.model, 'student', runner.model).backbone.register_forward_pre_hook(draw_a_number)
        runner.train()
        states.append(torch.load(f'{runner.work_dir}/epoch_2.pth'))
    assert len(drawn) == (3 if 'by_epoch' not in options else 5)
    first, second = states
    for key, value in first['state_dict'].items():
        assert torch.equal(value, second['state_dict'][key]), key
    assert torch.equal(first['rng_states'][0]['torch'], second['rng_states'][0]['torch'])
    assert first['rng_states'][0]['python'] == second['rng_states'][0]['python']
    assert torch.equal(first['rng_states'][0]['numpy'][1], second['rng_states'][0]['numpy'][1])


@pytest.mark.parametrize('distils', [False, True])
def test_modules_keep_their_modes_and_no_hooks(distils, attention_config, distiller_config, make_runner, drawn):
    runner = make_runner(distiller_config(student=attention_config()) if distils else attention_config(), **on())
    model = runner.model.train()
    # A part that is frozen, as `norm_eval` has it.
    getattr(model, 'student', model).backbone.group1.eval()
    modes = {name: each.training for name, each in model.named_modules()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    hook = AttentionVisualizationHook(num_images=2)
    hook.before_train(runner)
    hook.after_train_epoch(runner)
    assert {name: each.training for name, each in model.named_modules()} == modes and len(set(modes.values())) == 2
    assert not any(each._forward_hooks for each in model.modules())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_picture_between_two_steps_leaves_them_in_train_mode(attention_config, make_runner, drawn):
    modes = []

    class Modes(Hook):
        priority = 'VERY_LOW'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            modes.append({each.training for each in runner.model.modules()})

    runner = make_runner(attention_config(), **on(), **drawing(interval=1, by_epoch=False))
    runner.register_hook(Modes())
    runner.train()
    assert modes == [{True}] * 4 and len(drawn) == 5


def test_reading_images_leaves_random_states(network_config, make_runner, drawn):
    states = []
    for settings in ({}, drawing()):
        noisy = on(dict(type='Photographs', noise=True), 'pseudo_collate')
        runner = make_runner(network_config(), f'run_{len(states)}', epochs=1, **noisy, **settings)
        runner.train()
        states.append(torch.load(f'{runner.work_dir}/epoch_1.pth')['state_dict'])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_making_the_test_loader_leaves_random_states(network_config, make_runner, drawn):
    runner = make_runner(network_config(), **on(), randomness=dict(seed=0, diff_rank_seed=True))
    assert runner.train_loop
    before = np.random.get_state()
    AttentionVisualizationHook().before_train(runner)
    assert before[2] == np.random.get_state()[2] and np.array_equal(before[1], np.random.get_state()[1])


def test_a_misspelt_layer_stops_a_resumed_run_too(network_config, make_runner, drawn):
    make_runner(network_config(), epochs=1).train()
    runner = make_runner(network_config(), epochs=3, resume=True, **on(), **drawing(layers=['backbone.gruop0']))
    with pytest.raises(LayerError, match="'backbone.gruop0'"):
        runner.train()
    assert runner.iter == 2


def test_layers_of_one_name_are_both_drawn(network_config, make_runner, drawn):
    runner = make_runner(network_config(), **on())
    runner.model.neck.conv0 = nn.Identity()
    pool = runner.model.neck.forward
    runner.model.neck.forward = lambda x: pool(tuple(runner.model.neck.conv0(each) for each in x))
    AttentionVisualizationHook(layers=['backbone.conv0', 'neck.conv0']).before_train(runner)
    assert len(drawn[0][1]['']) == 2
