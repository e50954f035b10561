import pytest
import torch
from mmengine.config import Config

from mmat.engine.resume_checks import flatten, read_config_text
from mmat.errors import CheckpointError, ConfigError

HEAD = dict(weight=100.)


def first_run(make_runner, model, **settings):
    runner = make_runner(model, epochs=1, **settings)
    runner.train()
    return f'{runner.work_dir}/epoch_1.pth'


def warnings(runner, *parts):
    return [message for level, message in runner.log
            if level == 'WARNING' and 'FileClient' not in message and all(part in message for part in parts)]


# Reading configs

CONFIG = dict(
    a=1, b=-0.5, c=True, d=None, quoted="it's = 'x'", empty=dict(), pair=(1, 'x'), pairs=[(0, 1), (2, 3)],
    hooks=[dict(type='A', x=1), dict(type='B')], nested=dict(inner=dict(values=[1, 2], none=[])),
    odd={'norm.weight': dict(decay_mult=0.), 'x y': 1, 3: [1]})


@pytest.mark.parametrize('formatted', [True, False])
def test_the_text_of_a_config_is_read_without_running_it(formatted, tmp_path):
    text = Config(CONFIG, format_python_code=formatted).pretty_text
    read = read_config_text(f"{text}\nopen('{tmp_path}/made', 'w').close()\n")
    assert read == {**CONFIG, 'pair': [1, 'x'], 'pairs': [[0, 1], [2, 3]]}
    assert not list(tmp_path.iterdir())


def test_expressions_are_compared_as_text():
    assert read_config_text("a = dict(x=torch.float16, y=open('z'))") == dict(a=dict(x='torch.float16', y="open('z')"))


@pytest.mark.parametrize('text', [None, 'a = <class X>', 'a = (', b'\xff', 3])
def test_other_text_is_no_config(text):
    assert read_config_text(text) is None


def test_settings_are_flattened_to_dotted_keys():
    assert flatten(read_config_text(Config(CONFIG).pretty_text)) == {
        'a': 1, 'b': -0.5, 'c': True, 'd': None, 'quoted': "it's = 'x'", 'empty': {}, 'pair': [1, 'x'],
        'pairs': [[0, 1], [2, 3]], 'hooks.0.type': 'A', 'hooks.0.x': 1, 'hooks.1.type': 'B',
        'nested.inner.values': [1, 2], 'nested.inner.none': [], 'odd.norm.weight.decay_mult': 0., 'odd.x y': 1,
        'odd.3': [1]}


# Refused

@pytest.mark.parametrize('changes, parts', [
    ({'optim_wrapper.optimizer.lr': 0.001}, ['optim_wrapper.optimizer.lr', '0.1', '0.001']),
    ({'optim_wrapper.optimizer.momentum': 0.8}, ['optim_wrapper.optimizer.momentum', '0.9', '0.8']),
    ({'optim_wrapper.optimizer.weight_decay': 0.}, ['optim_wrapper.optimizer.weight_decay', '0.0005', '0.0']),
    ({'optim_wrapper.optimizer.nesterov': True}, ['optim_wrapper.optimizer.nesterov', 'True', 'unset']),
    ({'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=0.1)},
     ['optim_wrapper.optimizer.type', "'SGD'", "'AdamW'", 'optim_wrapper.optimizer.momentum', '0.9', 'unset']),
    ({'optim_wrapper.paramwise_cfg.bias_decay_mult': 0.}, ['optim_wrapper.paramwise_cfg.bias_decay_mult', 'unset']),
    (dict(seed=7), ['randomness.seed', '0', '7']),
    ({'randomness.diff_rank_seed': True}, ['randomness.diff_rank_seed', 'True']),
    ({'train_dataloader.sampler.seed': 9}, ['train_dataloader.sampler.seed', '0', '9']),
    (dict(auto_scale_lr=dict(enable=True, base_batch_size=8)), ['lr', '0.1', '0.4']),
])
def test_what_is_restored_cannot_be_changed(changes, parts, make_runner, network_config):
    path = first_run(make_runner, network_config())
    runner = make_runner(network_config(), 'resumed', resume=True, load_from=path, **changes)
    with pytest.raises(ConfigError) as error:
        runner.train()
    for part in (*parts, 'load_from'):
        assert part in str(error.value)
    assert runner.iter == 0


def test_all_of_it_is_named_and_nothing_else(make_runner, network_config):
    path = first_run(make_runner, network_config())
    runner = make_runner(network_config(), resume=True, load_from=path, seed=7,
                         **{'optim_wrapper.optimizer.lr': 0.2, 'train_dataloader.batch_size': 16})
    with pytest.raises(ConfigError) as error:
        runner.train()
    assert 'optimizer.lr' in str(error.value) and 'randomness.seed' in str(error.value)
    assert 'batch_size' not in str(error.value) and 'momentum' not in str(error.value)


@pytest.mark.parametrize('seed, accepted', [(None, True), ('drawn', True), ('other', False)])
def test_a_seed_that_was_drawn_can_be_given(seed, accepted, make_runner, network_config):
    first = make_runner(network_config(), epochs=1, seed=None)
    first.train()
    seed = dict(drawn=first.seed, other=first.seed + 1).get(seed)
    runner = make_runner(network_config(), resume=True, seed=seed)
    if accepted:
        runner.train()
        assert runner.iter == 4 and not warnings(runner)
    else:
        with pytest.raises(ConfigError, match=f'randomness.seed.*{seed}.*{first.seed}'):
            runner.train()


def test_another_batch_seed_is_refused(make_runner, network_config):

    def settings(seed):
        config = network_config()
        config['data_preprocessor']['seed'] = seed
        return config, {'train_dataloader.sampler.seed': seed}

    model, changes = settings(4)
    path = first_run(make_runner, model, **changes)
    model, changes = settings(5)
    with pytest.raises(ConfigError) as error:
        make_runner(model, resume=True, load_from=path, **changes).train()
    for part in ('model.data_preprocessor.seed', 'train_dataloader.sampler.seed', '4', '5'):
        assert part in str(error.value)


def other_network(network_config, change):
    config = network_config(2 if change == 'widen_factor' else 1)
    config['backbone']['depth'] = 16 if change == 'depth' else 10
    config['head']['num_classes'] = 11 if change == 'num_classes' else 10
    return config


@pytest.mark.parametrize('change, key', [('widen_factor', 'backbone.'), ('depth', 'backbone.'),
                                         ('num_classes', 'head.fc.weight')])
def test_weights_of_another_network_are_not_resumed(change, key, make_runner, network_config):
    path = first_run(make_runner, network_config())
    runner = make_runner(other_network(network_config, change), 'resumed', resume=True, load_from=path)
    with pytest.raises(CheckpointError) as error:
        runner.train()
    assert 'ImageClassifier' in str(error.value) and key in str(error.value) and runner.iter == 0


def test_fewer_layers_than_the_checkpoint_are_not_resumed(make_runner, network_config):
    path = first_run(make_runner, other_network(network_config, 'depth'))
    with pytest.raises(CheckpointError, match='backbone.group'):
        make_runner(network_config(), 'resumed', resume=True, load_from=path).train()


# Warned of

@pytest.mark.parametrize('changes, parts', [
    ({'train_dataloader.batch_size': 16}, ['train_dataloader.batch_size', '32', '16']),
    ({'train_dataloader.dataset.train_size': 96}, ['train_dataloader.dataset.train_size', '64', '96']),
    ({'train_dataloader.num_batch_per_epoch': 1}, ['train_dataloader.num_batch_per_epoch', 'unset', '1']),
    ({'val_dataloader.batch_size': 16}, ['val_dataloader.batch_size', '32', '16']),
    ({'val_evaluator.topk': 2}, ['val_evaluator.topk', 'unset', '2']),
    ({'train_cfg.val_interval': 2}, ['train_cfg.val_interval', '1', '2']),
    ({'model.data_preprocessor.padding': 1}, ['model.data_preprocessor.padding', '2', '1']),
    ({'optim_wrapper.clip_grad.max_norm': 1.}, ['optim_wrapper.clip_grad.max_norm', 'unset', '1.0']),
    ({'optim_wrapper.type': 'mmat.AutocastOptimWrapper'},
     ['optim_wrapper.type', 'unset', "'mmat.AutocastOptimWrapper'"]),
    ({'randomness.deterministic': False}, ['randomness.deterministic', 'unset', 'False']),
    (dict(custom_hooks=[dict(type='EMAHook')]), ['custom_hooks.0.type', 'unset', "'EMAHook'"]),
])
def test_what_changes_the_run_is_a_warning(changes, parts, make_runner, network_config):
    path = first_run(make_runner, network_config(), validate=True)
    runner = make_runner(network_config(), 'resumed', validate=True, resume=True, load_from=path, **changes)
    runner.train()
    line, = warnings(runner, parts[0])
    assert all(part in line for part in parts) and runner.epoch == 2
    assert len(warnings(runner, ' checkpoint')) == 1 or 'EMAHook' in str(changes)


@pytest.mark.parametrize('change, key, values', [
    (dict(weight=50.), 'model.at_heads.0.weight', ['100.0', '50.0']),
    (dict(pairs=[(2, 2)]), 'model.at_heads.0.pairs', ['[[0, 0], [1, 1], [2, 2]]', '[[2, 2]]'])])
def test_transfer_heads_may_be_changed_with_a_warning(change, key, values, make_runner, distiller_config):
    path = first_run(make_runner, distiller_config(HEAD))
    runner = make_runner(distiller_config({**HEAD, **change}), resume=True, load_from=path)
    runner.train()
    line, = warnings(runner, 'model.')
    assert key in line and all(value in line for value in values)


def test_another_teacher_is_a_warning(make_runner, distiller_config, teacher_file, tmp_path):
    path = first_run(make_runner, distiller_config())
    torch.save(torch.load(teacher_file), tmp_path / 'other.pth')
    config = distiller_config()
    config['teacher'] = {**config['teacher'], 'checkpoint': str(tmp_path / 'other.pth')}
    runner = make_runner(config, resume=True, load_from=path)
    runner.train()
    line, = warnings(runner, 'model.')
    assert all(part in line for part in ('model.teacher.checkpoint', teacher_file, 'other.pth'))


def test_another_schedule_of_weights_is_reported_once(make_runner, distiller_config):
    schedule = dict(type='linear', initial=100., final=0.)
    path = first_run(make_runner, distiller_config(dict(weight=dict(schedule, end=4))))
    runner = make_runner(distiller_config(dict(weight=dict(schedule, end=3))), resume=True, load_from=path)
    with pytest.raises(CheckpointError):
        runner.train()
    assert not warnings(runner, 'at_heads')


def test_another_number_of_processes_is_a_warning(make_runner, network_config):
    path = first_run(make_runner, network_config())
    checkpoint = torch.load(path)
    checkpoint['rng_states'] *= 2
    torch.save(checkpoint, path)
    runner = make_runner(network_config(), resume=True, load_from=path)
    runner.train()
    line, = warnings(runner, 'processes')
    assert '1' in line and '2' in line


# Neither

def test_what_does_not_change_the_run_is_not_logged(make_runner, network_config):
    path = first_run(make_runner, network_config(), validate=True)
    neutral = {
        'log_processor': dict(window_size=3), 'default_hooks.logger': dict(type='LoggerHook', interval=7),
        'default_hooks.checkpoint.interval': 2, 'default_hooks.checkpoint.max_keep_ckpts': 3,
        'default_hooks.class_count': dict(type='mmat.ClassCountHook'), 'env_cfg': dict(dist_cfg=dict(backend='gloo')),
        'train_dataloader.pin_memory': True, 'custom_hooks': [dict(type='mmat.AttentionVisualizationHook')],
        'visualizer': dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]), '_note': 'x'}
    runner = make_runner(network_config(), 'elsewhere', epochs=3, validate=True, resume=True, load_from=path, **neutral)
    runner.train()
    assert runner.epoch == 3 and not warnings(runner, 'checkpoint')


def test_another_path_of_the_same_file_is_the_same(make_runner, distiller_config, teacher_file, monkeypatch, tmp_path):
    path = first_run(make_runner, distiller_config())
    monkeypatch.chdir(teacher_file.rpartition('/')[0])
    config = distiller_config()
    config['teacher'] = {**config['teacher'], 'checkpoint': './epoch_1.pth'}
    runner = make_runner(config, resume=True, load_from=path)
    runner.train()
    assert not warnings(runner)


@pytest.mark.parametrize('text', [None, '', 'not a config ('])
def test_without_a_config_nothing_is_compared(text, make_runner, network_config):
    path = first_run(make_runner, network_config())
    checkpoint = torch.load(path)
    del checkpoint['meta']['cfg']
    if text is not None:
        checkpoint['meta']['cfg'] = text
    torch.save(checkpoint, path)
    runner = make_runner(network_config(), resume=True, load_from=path, log_level='INFO',
                         **{'train_dataloader.batch_size': 16, 'optim_wrapper.optimizer.lr': 0.2})
    runner.train()
    assert not warnings(runner) and runner.epoch == 2
    assert sum('config' in message and 'compared' in message for _, message in runner.log) == 1


def test_new_weights_from_load_from_are_not_compared(make_runner, network_config):
    path = first_run(make_runner, network_config())
    runner = make_runner(network_config(), 'new', epochs=1, seed=3, load_from=path,
                         **{'optim_wrapper.optimizer.lr': 0.2})
    runner.train()
    assert not warnings(runner)
