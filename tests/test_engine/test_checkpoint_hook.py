import os
import random

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS

from mmat.errors import CheckpointError


class Stop(Exception):
    pass


class StopBeforeEpoch(Hook):
    """Stops a run after an epoch, its checkpoint and its validation, as SIGKILL might."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_train_epoch(self, runner):
        if runner.epoch == self.epoch:
            raise Stop


class Noise(Hook):
    """Training and validation that draw from every random generator there is; the weights depend on each draw."""

    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        shift = 20 * random.random() + 20 * np.random.rand() + 20 * np.random.standard_normal() + 20 * torch.rand(1)
        data_batch['inputs'] = (data_batch['inputs'].float() + shift).clamp(0, 255).to(torch.uint8)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        random.random(), np.random.standard_normal(), torch.rand(1)


def scramble(seed=99):
    """Another process: its generators are elsewhere."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def read(runner, name):
    # The default, weights_only=True, reads tensors and plain values only.
    return torch.load(os.path.join(runner.work_dir, name), weights_only=True)


def equal_tensors(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal_tensors(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal_tensors, first, second))
    return first == second


def noisy(runner):
    runner.register_hook(Noise())
    return runner


# Exact

@pytest.mark.parametrize('validate', [False, True])
@pytest.mark.parametrize('seed', [0, None])
def test_a_run_stopped_and_resumed_gives_the_bits_of_one_never_stopped(seed, validate, network_config, make_runner):
    settings = dict(epochs=4, seed=seed, validate=validate)
    straight = noisy(make_runner(network_config(), 'straight', **settings))
    straight.train()
    stopped = noisy(make_runner(network_config(), 'stopped', **{**settings, 'seed': straight.seed}))
    if seed is None:
        # The sampler has drawn another seed for the data order.
        stopped.train_dataloader.sampler.seed = straight.train_dataloader.sampler.seed
    stopped.register_hook(StopBeforeEpoch(2))
    with pytest.raises(Stop):
        stopped.train()
    scramble()
    resumed = noisy(make_runner(network_config(), 'stopped', resume=True, **settings))
    resumed.train()
    assert any('epoch_2.pth' in message for _, message in resumed.log)
    first, second = read(straight, 'epoch_4.pth'), read(resumed, 'epoch_4.pth')
    for part in ('state_dict', 'optimizer', 'param_schedulers', 'rng_states', 'data_order'):
        assert equal_tensors(first[part], second[part]), part
    momenta = [state['momentum_buffer'] for state in first['optimizer']['state'].values()]
    assert len(momenta) == len(list(resumed.model.parameters())) and all(m.abs().sum() > 0 for m in momenta)
    assert first['meta']['iter'] == second['meta']['iter'] == 8


@pytest.mark.parametrize('part', ['rng_states', 'data_order'])
def test_without_its_states_it_would_not(part, network_config, make_runner):
    """The test above can fail: each thing that is kept is needed."""
    straight = noisy(make_runner(network_config(), 'straight', epochs=2, seed=None))
    straight.train()
    checkpoint = read(straight, 'epoch_1.pth')
    del checkpoint[part]
    path = os.path.join(straight.work_dir, 'without.pth')
    torch.save(checkpoint, path)
    scramble()
    resumed = noisy(make_runner(network_config(), 'resumed', epochs=2, seed=None, resume=True, load_from=path))
    resumed.train()
    assert not equal_tensors(read(straight, 'epoch_2.pth')['state_dict'], read(resumed, 'epoch_2.pth')['state_dict'])
    warned = [message for level, message in resumed.log if level == 'WARNING' and 'random states of 0' in message]
    assert len(warned) == (part == 'rng_states')


def test_a_run_by_iterations_resumes_to_the_bit(network_config, make_runner):
    settings = {
        'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=4, val_interval=2),
        'train_dataloader.sampler.type': 'InfiniteSampler',
        'param_scheduler.by_epoch': False,
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 2,
    }
    straight = noisy(make_runner(network_config(), 'straight', seed=None, validate=True, **settings))
    straight.train()
    scramble()
    resumed = noisy(make_runner(network_config(), 'resumed', seed=None, validate=True, resume=True,
                                load_from=f'{straight.work_dir}/iter_2.pth', **settings))
    resumed.train()
    first, second = read(straight, 'iter_4.pth'), read(resumed, 'iter_4.pth')
    for part in ('state_dict', 'optimizer', 'rng_states'):
        assert equal_tensors(first[part], second[part]), part


def test_it_holds_the_random_states_of_python_numpy_and_torch(network_config, make_runner):
    runner = noisy(make_runner(network_config(), epochs=1))
    runner.train()
    # Nothing draws between the last checkpoint and the end of the run.
    state, = read(runner, 'epoch_1.pth')['rng_states']
    assert state['python'] == random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    assert state['numpy'][0] == name and state['numpy'][1].tolist() == keys.tolist()
    assert tuple(state['numpy'][2:]) == (position, has_gauss, cached)
    assert torch.equal(state['torch'], torch.get_rng_state())


def test_validation_leaves_the_random_states_as_it_found_them(network_config, make_runner):
    checkpoints = []
    for validate in (False, True):
        runner = noisy(make_runner(network_config(), f'validate_{validate}', validate=validate))
        runner.train()
        checkpoints.append(read(runner, 'epoch_2.pth'))
    for part in ('state_dict', 'rng_states'):
        assert equal_tensors(checkpoints[0][part], checkpoints[1][part]), part


def test_resuming_runs_nothing_that_the_checkpoint_says(network_config, make_runner, tmp_path):
    runner = make_runner(network_config(), epochs=1)
    runner.train()
    checkpoint = read(runner, 'epoch_1.pth')
    checkpoint['meta']['cfg'] += f"\nopen('{tmp_path}/was_here', 'w').close()\n"
    torch.save(checkpoint, f'{runner.work_dir}/epoch_1.pth')
    make_runner(network_config(), epochs=1, resume=True).train()
    assert not (tmp_path / 'was_here').exists()


@pytest.fixture
def streaming_config(network_config):
    """A network whose batches have a separate seed."""
    config = network_config()
    config['data_preprocessor']['seed'] = 4
    return config


def test_the_batches_own_random_stream_is_resumed(streaming_config, make_runner):
    straight = noisy(make_runner(streaming_config, 'straight'))
    straight.train()
    path = f'{straight.work_dir}/epoch_1.pth'
    scramble()
    resumed = noisy(make_runner(streaming_config, 'resumed', resume=True, load_from=path))
    resumed.train()
    first, second = read(straight, 'epoch_2.pth'), read(resumed, 'epoch_2.pth')
    for part in ('state_dict', 'rng_states', 'batch_rng_state'):
        assert equal_tensors(first[part], second[part]), part
    assert not [message for level, message in resumed.log if level == 'WARNING' and '--batch-seed' in message]
    checkpoint = read(straight, 'epoch_1.pth')
    assert not equal_tensors(checkpoint['batch_rng_state'], first['batch_rng_state'])
    # The test above can fail.
    del checkpoint['batch_rng_state']
    torch.save(checkpoint, path)
    other = noisy(make_runner(streaming_config, 'other', resume=True, load_from=path))
    other.train()
    assert not equal_tensors(read(other, 'epoch_2.pth')['state_dict'], first['state_dict'])


@pytest.mark.parametrize('before, after', [(False, True), (True, False), (False, False)])
def test_batches_with_a_seed_of_their_own_in_one_part_only(before, after, network_config, streaming_config,
                                                           make_runner):
    make_runner(streaming_config if before else network_config(), epochs=1).train()
    resumed = make_runner(streaming_config if after else network_config(), resume=True)
    resumed.train()
    warned = [message for level, message in resumed.log if level == 'WARNING' and '--batch-seed' in message]
    assert len(warned) == (before != after) and resumed.iter == 4


# Refusals and warnings

@pytest.mark.parametrize('change', [{'param_scheduler.milestones': [1, 2]}, {'param_scheduler.gamma': 0.1},
                                    {'param_scheduler': [dict(type='CosineAnnealingLR', T_max=4)]},
                                    {'param_scheduler': None}])
def test_another_schedule_is_refused(change, network_config, make_runner):
    make_runner(network_config(), epochs=1).train()
    resumed = make_runner(network_config(), resume=True, **change)
    with pytest.raises(CheckpointError, match='param_scheduler.*load_from'):
        resumed.train()
    assert resumed.iter == 0


def test_more_epochs_give_the_bits_of_a_run_planned_longer(network_config, make_runner):
    # mmengine's schedulers end with the max_epochs they were made with: it would skip the drop at epoch 2 and lose
    # that at epoch 3.
    milestones = {'param_scheduler.milestones': [2, 3]}
    make_runner(network_config(), epochs=2, **milestones).train()
    extended = make_runner(network_config(), epochs=4, resume=True, **milestones)
    extended.train()
    assert [scheduler.get_last_value() for scheduler in extended.param_schedulers] == [[pytest.approx(0.004)]]
    straight = make_runner(network_config(), 'straight', epochs=4, **milestones).train()
    weights = extended.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in straight.state_dict().items())


def test_more_epochs_are_refused_where_they_change_the_schedule(network_config, make_runner):
    cosine = dict(param_scheduler=[dict(type='CosineAnnealingLR')])
    make_runner(network_config(), epochs=2, **cosine).train()
    with pytest.raises(CheckpointError, match='T_max: 2 .*4 '):
        make_runner(network_config(), epochs=4, resume=True, **cosine).train()


def test_loading_weights_into_another_schedule_is_no_resuming(network_config, make_runner):
    make_runner(network_config(), epochs=1).train()
    path = make_runner(network_config()).work_dir + '/epoch_1.pth'
    runner = make_runner(network_config(), 'new', epochs=1, load_from=path, **{'param_scheduler.gamma': 0.5})
    runner.train()
    assert runner.iter == 2


def test_weights_of_another_network_are_refused(network_config, make_runner, tmp_path):
    make_runner(network_config(widen_factor=2), 'other', epochs=1).train()
    other = str(tmp_path / 'other' / 'epoch_1.pth')
    runner = make_runner(network_config(), load_from=other)
    with pytest.raises(CheckpointError, match=r'epoch_1\.pth.* ImageClassifier .* backbone\.') as error:
        runner.train()
    own, others = runner.model.state_dict(), torch.load(other)['state_dict']
    same = sum(others[key].shape == value.shape for key, value in own.items())
    assert f'{same} of {len(own)} ' in str(error.value) and 0 < same < len(own) / 2
    assert runner.iter == 0


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_weights_to_begin_with_may_lack_a_head(prefix, network_config, make_runner, tmp_path):
    make_runner(network_config(), 'other', epochs=1).train()
    checkpoint = torch.load(tmp_path / 'other' / 'epoch_1.pth')
    state = {prefix + key: value for key, value in checkpoint['state_dict'].items() if not key.startswith('head')}
    torch.save(dict(state_dict=state), tmp_path / 'headless.pth')
    runner = make_runner(network_config(), epochs=1, load_from=str(tmp_path / 'headless.pth'))
    runner.load_or_resume()
    own = runner.model.state_dict()
    assert all(torch.equal(own[key[len(prefix):]], value) for key, value in state.items())


@pytest.mark.parametrize('iteration, done', [(1, 1), (3, 1)])
def test_a_checkpoint_from_within_an_epoch_says_so(iteration, done, network_config, make_runner):
    settings = {'default_hooks.checkpoint.by_epoch': False}
    runner = make_runner(network_config(), **settings)
    runner.train()
    resumed = make_runner(network_config(), 'resumed', resume=True,
                          load_from=f'{runner.work_dir}/iter_{iteration}.pth', **settings)
    resumed.train()
    warned = [message for level, message in resumed.log if level == 'WARNING' and 'into epoch' in message]
    assert len(warned) == 1
    assert f'saved {done} iterations into epoch {(iteration + 1) // 2}' in warned[0]


def test_a_checkpoint_between_epochs_gives_no_warning(network_config, make_runner):
    make_runner(network_config(), epochs=1).train()
    resumed = make_runner(network_config(), resume=True)
    resumed.train()
    # mmengine itself warns of its FileClient.
    assert not [message for level, message in resumed.log if level == 'WARNING' and 'FileClient' not in message]


# Clean

def test_it_holds_tensors_and_plain_values_only(network_config, make_runner):
    runner = make_runner(network_config(), validate=True, **{'default_hooks.checkpoint.save_best': 'accuracy/top1'})
    runner.train()
    names = [name for name in os.listdir(runner.work_dir) if name.endswith('.pth')]
    assert len(names) == 3 and any(name.startswith('best_') for name in names)
    for name in names:
        assert 'meta' in read(runner, name)


def test_its_size_does_not_grow_with_the_iterations(network_config, make_runner):
    runner = make_runner(network_config(), epochs=6, **{'train_dataloader.batch_size': 4,
                                                         'train_dataloader.dataset.train_size': 20})
    runner.train()
    first, last = (os.path.getsize(f'{runner.work_dir}/epoch_{epoch}.pth') for epoch in (1, 6))
    assert runner.iter == 30
    # A history of one scalar alone would take 25 * 8 bytes; torch pads to 64.
    assert abs(last - first) <= 64


class NumpyAccuracy(BaseMetric):
    """As scikit-learn's metrics: a NumPy scalar."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(accuracy=np.float64(0.5))


@pytest.mark.parametrize('metric, key', [('mmpretrain.Accuracy', 'accuracy/top1'), ('NumpyAccuracy', 'accuracy')])
def test_the_best_score_so_far_is_resumed(metric, key, network_config, make_runner):
    METRICS.register_module(module=NumpyAccuracy, force=True)
    settings = {'val_evaluator.type': metric, 'default_hooks.checkpoint.save_best': key,
                'default_hooks.checkpoint.rule': 'greater'}
    runner = make_runner(network_config(), epochs=1, validate=True, **settings)
    runner.train()
    resumed = make_runner(network_config(), validate=True, resume=True, **settings)
    resumed.register_hook(StopBeforeEpoch(1))
    with pytest.raises(Stop):
        resumed.train()
    assert resumed.message_hub.get_info('best_score') == runner.message_hub.get_info('best_score')


# Whole

def test_a_write_that_fails_leaves_the_last_checkpoint(network_config, make_runner, monkeypatch):
    runner = make_runner(network_config(), **{'default_hooks.checkpoint.filename_tmpl': 'latest.pth'})
    replace, calls = os.replace, []

    def fail_the_second_time(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, 'No space left on device')
        return replace(*args)

    monkeypatch.setattr(os, 'replace', fail_the_second_time)
    with pytest.raises(OSError, match='No space left'):
        runner.train()
    assert read(runner, 'latest.pth')['meta']['epoch'] == 1


def test_old_checkpoints_are_removed_also_after_resuming(network_config, make_runner):
    settings = {'default_hooks.checkpoint.max_keep_ckpts': 2}
    make_runner(network_config(), epochs=3, **settings).train()
    # The schedule of a longer run: same config but for its end.
    runner = make_runner(network_config(), epochs=3, resume=True, **settings)
    assert sorted(name for name in os.listdir(runner.work_dir) if name.endswith('.pth')) == [
        'epoch_2.pth', 'epoch_3.pth']
