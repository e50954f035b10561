import math
import os

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import convert_sync_batchnorm

from mmat.datasets import BatchedSamples
from mmat.errors import CheckpointError, ConfigError
from mmat.models import Distiller
from mmat.registry import MODELS

AT = dict(type='mmat.ActivationATHead', pairs=[(0, 0), (2, 2)])
LINEAR = dict(type='linear', initial=80., final=20.)
BY_ITERATION = {
    'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=4, val_interval=2),
    'train_dataloader.sampler.type': 'InfiniteSampler',
    'param_scheduler.by_epoch': False,
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 2,
}
WITHOUT_HOOK = dict(default_hooks=dict(_delete_=True, checkpoint=dict(type='mmat.CheckpointHook', interval=1)))
# Its rates do not depend on the length of the training, which some tests change.
STEADY = dict(param_scheduler=None)


class Weights(Hook):
    """Collects the weights of the heads as each step used them."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append([head.weight for head in runner.model.at_heads])


class Stop(Exception):
    pass


class StopBeforeEpoch(Hook):
    """Stops a run after an epoch and its checkpoint, as SIGKILL might."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_train_epoch(self, runner):
        if runner.epoch == self.epoch:
            raise Stop


def watched(runner):
    hook = Weights()
    runner.register_hook(hook)
    return runner, hook.seen


def at(weight, **options):
    return dict(AT, weight=weight, **options)


def checkpoint_of(runner, name='epoch_2.pth'):
    return torch.load(os.path.join(runner.work_dir, name), weights_only=True)


def equal_bits(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


# The weight of each step

# Four epochs of two steps each.
@pytest.mark.parametrize('weight, expected', [
    (7., [7] * 8),
    (dict(type='constant', initial=7.), [7] * 8),
    (LINEAR, [80, 80, 65, 65, 50, 50, 35, 35]),
    (dict(LINEAR, by_epoch=False), [80, 72.5, 65, 57.5, 50, 42.5, 35, 27.5]),
    (dict(LINEAR, begin=1, end=3), [80, 80, 80, 80, 50, 50, 20, 20]),
    (dict(LINEAR, begin=2, end=5, by_epoch=False), [80, 80, 80, 60, 40, 20, 20, 20]),
    (dict(type='cosine', initial=80.), [80, 80, 40 + 20 * math.sqrt(2), 40 + 20 * math.sqrt(2), 40, 40,
                                        40 - 20 * math.sqrt(2), 40 - 20 * math.sqrt(2)]),
    (dict(type='step', initial=80., milestones=[1, 3], gamma=0.5), [80, 80, 40, 40, 40, 40, 20, 20]),
    (dict(type='step', initial=80., milestones=[1, 3], gamma=0.5, by_epoch=False), [80, 40, 40, 20, 20, 20, 20, 20]),
    (dict(type='exponential', initial=80., gamma=0.5), [80, 80, 40, 40, 20, 20, 10, 10]),
    (dict(type='exponential', initial=80., gamma=0.5, by_epoch=False), [80 / 2**i for i in range(8)]),
])
def test_each_step_of_a_run_has_the_weight_of_the_formula(weight, expected, distiller_config, make_runner):
    runner, seen = watched(make_runner(distiller_config(at_heads=[at(weight)]), epochs=4))
    logged = []
    train_step = runner.model.train_step
    runner.model.train_step = lambda *args, **kwargs: logged.append(train_step(*args, **kwargs)) or logged[-1]
    runner.train()
    assert [weight for weight, in seen] == pytest.approx(expected, rel=1e-12)
    for log, value in zip(logged, expected):
        assert log['loss_at.backbone.group0'].item() == pytest.approx(
            value * log['at.backbone.group0'].item(), rel=1e-5)
    # Constant weights are not logged.
    changes = isinstance(weight, dict) and weight['type'] != 'constant'
    assert [('at.weight' in log) for log in logged] == [changes] * 8
    if changes:
        assert [log['at.weight'].item() for log in logged] == pytest.approx(expected, rel=1e-6)
        assert runner.message_hub.get_scalar('train/at.weight').data[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_each_head_has_its_schedule(distiller_config, make_runner):
    heads = [at(LINEAR), at(5.), at(dict(type='step', initial=8., milestones=[1], gamma=0.5), name='mine')]
    runner, seen = watched(make_runner(distiller_config(at_heads=heads)))
    logged = []
    train_step = runner.model.train_step
    runner.model.train_step = lambda *args, **kwargs: logged.append(train_step(*args, **kwargs)) or logged[-1]
    runner.train()
    assert seen == [[80, 5, 8]] * 2 + [[50, 5, 4]] * 2
    assert [{key for key in log if key.endswith('.weight')} for log in logged] == [{'at.weight', 'mine.weight'}] * 4


def test_a_constant_schedule_trains_as_a_number_does(distiller_config, make_runner):
    states = []
    weights = (50., dict(type='constant', initial=50.), dict(type='linear', initial=50., final=50.),
               dict(type='exponential', initial=50., gamma=1.), LINEAR)
    for index, weight in enumerate(weights):
        runner = make_runner(distiller_config(at_heads=[at(weight)]), f'run_{index}')
        runner.train()
        states.append(checkpoint_of(runner)['state_dict'])
    for state in states[1:-1]:
        equal_bits(state, states[0])
    # Another one would show.
    assert not torch.equal(states[-1]['backbone.conv0.weight'], states[0]['backbone.conv0.weight'])


def test_a_run_by_iterations(distiller_config, make_runner):
    weight = dict(LINEAR, by_epoch=False)
    runner, seen = watched(make_runner(distiller_config(at_heads=[at(weight)]), **BY_ITERATION))
    runner.train()
    assert seen == [[80], [65], [50], [35]]


@pytest.mark.parametrize('weight', [LINEAR, dict(type='step', initial=1., milestones=[1], gamma=0.5)])
def test_a_run_by_iterations_has_no_epochs_to_count(weight, distiller_config, make_runner):
    runner = make_runner(distiller_config(at_heads=[at(3.), at(weight, name='mine')]), **BY_ITERATION)
    with pytest.raises(ConfigError, match="'mine'.*by_epoch=False"):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('weight', [3., dict(type='constant', initial=3.)])
def test_a_constant_runs_by_iterations_all_the_same(weight, distiller_config, make_runner):
    runner, seen = watched(make_runner(distiller_config(at_heads=[at(weight)]), **BY_ITERATION))
    runner.train()
    assert seen == [[3]] * 4


def test_a_schedule_that_begins_when_training_has_ended_stops_it_before_its_first_step(distiller_config, make_runner):
    runner = make_runner(distiller_config(at_heads=[at(dict(LINEAR, begin=5))]))
    with pytest.raises(ConfigError, match=r' 5, .* 2\.'):
        runner.train()
    assert runner.iter == 0


# Without the hook

@pytest.mark.parametrize('head', [
    at(LINEAR), at(dict(LINEAR, initial=0.)), dict(type='mmat.SoftTargetHead', alpha=dict(type='linear', initial=0.8)),
    dict(type='mmat.FullActivationHead', pairs=[(0, 0)])])
def test_without_the_hook_a_schedule_is_refused_at_the_first_step(head, distiller_config, make_runner):
    runner = make_runner(distiller_config(at_heads=[head]), **WITHOUT_HOOK)
    with pytest.raises(RuntimeError, match='schedule.*mmat.DistillationHook'):
        runner.train()
    assert runner.iter == 0


def test_without_the_hook_a_constant_trains(distiller_config, make_runner):
    runner, seen = watched(make_runner(distiller_config(at_heads=[at(3.)]), **WITHOUT_HOOK))
    runner.train()
    assert seen == [[3]] * 4


def test_a_custom_loop_may_set_the_progress(distiller_config):
    distiller = MODELS.build(distiller_config(at_heads=[at(LINEAR), at(5.)]))
    data = distiller.data_preprocessor(
        dict(inputs=torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8) % 256, data_samples=BatchedSamples(torch.arange(2))))
    with pytest.raises(RuntimeError, match="'at'.*schedule.*set_progress"):
        distiller(**data, mode='loss')
    for epoch, weight in ((0, 80), (3, 35), (4, 20)):
        distiller.set_progress(epoch, 0, 4, 100)
        log = distiller(**data, mode='loss')
        assert log['at.weight'].item() == weight
        for name, factor in (('at', weight), ('at_2', 5)):
            assert log[f'loss_{name}.backbone.group0'].item() == pytest.approx(
                factor * log[f'{name}.backbone.group0'].item(), rel=1e-6)


# Resuming

@pytest.mark.parametrize('head', [
    at(LINEAR),
    at(dict(LINEAR, by_epoch=False)),
    at(dict(type='cosine', initial=80., by_epoch=False)),
    at(dict(type='step', initial=80., milestones=[1, 3], gamma=0.5)),
    at(dict(type='exponential', initial=80., gamma=0.8, by_epoch=False)),
    dict(type='mmat.SoftTargetHead', alpha=dict(type='linear', initial=0.9, final=0.1, by_epoch=False)),
], ids=['linear', 'by iteration', 'cosine', 'step', 'exponential', 'alpha'])
def test_a_run_stopped_and_resumed_gives_the_bits_of_one_never_stopped(head, distiller_config, make_runner):
    config = distiller_config(at_heads=[head])
    straight, seen = watched(make_runner(config, 'straight', epochs=3))
    straight.train()
    stopped, first = watched(make_runner(config, 'stopped', epochs=3))
    stopped.register_hook(StopBeforeEpoch(1))
    with pytest.raises(Stop):
        stopped.train()
    resumed, second = watched(make_runner(config, 'stopped', epochs=3, resume=True))
    resumed.train()
    assert len(first) == 2 and len(second) == 4 and first + second == seen
    assert len(set(map(tuple, seen))) > 1
    checkpoints = [checkpoint_of(runner, 'epoch_3.pth') for runner in (straight, resumed)]
    equal_bits(*(checkpoint['state_dict'] for checkpoint in checkpoints))
    assert checkpoints[0]['at_heads_schedules'] == checkpoints[1]['at_heads_schedules'] != {}


def test_the_test_above_can_fail(distiller_config, make_runner):
    """A weight that started again would show in the bits."""
    straight = make_runner(distiller_config(at_heads=[at(LINEAR)]), 'straight')
    straight.train()
    resumed = make_runner(distiller_config(at_heads=[at(LINEAR)]), 'resumed', resume=True,
                          load_from=f'{straight.work_dir}/epoch_1.pth')
    resumed.model.set_progress = lambda *args: Distiller.set_progress(resumed.model, 0, 0, 2, 4)
    resumed.train()
    first, second = (checkpoint_of(runner)['state_dict'] for runner in (straight, resumed))
    assert not torch.equal(first['backbone.conv0.weight'], second['backbone.conv0.weight'])


def test_a_run_by_iterations_resumes_to_the_bit(distiller_config, make_runner):
    config = distiller_config(at_heads=[at(dict(LINEAR, by_epoch=False))])
    straight, seen = watched(make_runner(config, 'straight', **BY_ITERATION))
    straight.train()
    resumed, rest = watched(make_runner(config, 'resumed', resume=True,
                                        load_from=f'{straight.work_dir}/iter_2.pth', **BY_ITERATION))
    resumed.train()
    assert rest == seen[2:] == [[50], [35]]
    equal_bits(*(checkpoint_of(runner, 'iter_4.pth')['state_dict'] for runner in (straight, resumed)))


def test_the_checkpoint_holds_the_schedules_that_change(distiller_config, make_runner):
    runner = make_runner(distiller_config(at_heads=[at(3.), at(LINEAR), at(dict(LINEAR, by_epoch=False), name='mine')]))
    runner.train()
    kept = checkpoint_of(runner)['at_heads_schedules']
    assert list(kept) == ['at_2', 'mine']
    assert {key: kept['at_2'][key] for key in ('type', 'initial', 'final', 'end', 'by_epoch')} == dict(
        LINEAR, end=2, by_epoch=True)
    # In epochs too: other batches leave the weight where it was.
    assert kept['mine']['end'] == 2
    other = make_runner(distiller_config(at_heads=[at(3.)]), 'other')
    other.train()
    assert 'at_heads_schedules' not in checkpoint_of(other)


STEP = dict(type='step', initial=80., milestones=[1, 3], gamma=0.5)
EXPONENTIAL = dict(type='exponential', initial=80., gamma=0.5)


def resume(weights, epochs, distiller_config, make_runner):
    """Trains one epoch of a run, and goes on with another weight and length."""
    stopped = make_runner(distiller_config(at_heads=[at(weights[0])]), epochs=epochs[0], **STEADY)
    stopped.register_hook(StopBeforeEpoch(1))
    with pytest.raises(Stop):
        stopped.train()
    runner, seen = watched(make_runner(
        distiller_config(at_heads=[at(weights[1])]), epochs=epochs[1], resume=True, **STEADY))
    runner.train()
    return runner, [weight for weight, in seen]


@pytest.mark.parametrize('there, here, epochs, option, values', [
    (LINEAR, dict(LINEAR, initial=90.), (2, 2), 'initial', (80., 90.)),
    (LINEAR, dict(LINEAR, final=10.), (2, 2), 'final', (20., 10.)),
    (LINEAR, dict(LINEAR, begin=1), (2, 2), 'begin', (0, 1)),
    (LINEAR, dict(LINEAR, end=1), (2, 2), 'end', (2, 1)),
    (LINEAR, dict(LINEAR, by_epoch=False), (2, 2), 'by_epoch', (True, False)),
    (LINEAR, dict(LINEAR, type='cosine'), (2, 2), 'type', ('linear', 'cosine')),
    (STEP, dict(STEP, gamma=0.1), (2, 2), 'gamma', (0.5, 0.1)),
    (STEP, dict(STEP, milestones=[1]), (2, 2), 'milestones', ([1, 3], [1])),
    (EXPONENTIAL, dict(EXPONENTIAL, gamma=0.6), (2, 2), 'gamma', (0.5, 0.6)),
    # To or from a constant.
    (LINEAR, 80., (2, 2), 'type', ('linear', 'none')),
    (80., LINEAR, (2, 2), 'type', ('none', 'linear')),
    (LINEAR, dict(type='constant', initial=80.), (2, 2), 'type', ('linear', 'none')),
    # Another end.
    (LINEAR, LINEAR, (2, 3), 'end', (2, 3)),
    (LINEAR, LINEAR, (3, 2), 'end', (3, 2)),
    (dict(LINEAR, by_epoch=False), dict(LINEAR, by_epoch=False), (2, 3), 'end', (2, 3)),
    (dict(type='cosine', initial=80.), dict(type='cosine', initial=80.), (2, 3), 'end', (2, 3)),
    (dict(LINEAR, end=2), LINEAR, (2, 3), 'end', (2, 3)),
])
def test_resuming_with_another_schedule_is_refused(there, here, epochs, option, values, distiller_config, make_runner):
    with pytest.raises(CheckpointError, match='load_from') as error:
        resume((there, here), epochs, distiller_config, make_runner)
    message = str(error.value)
    assert '\n' not in message
    # The only option that differs, with its saved and its current value.
    difference = message.split('at.')
    assert len(difference) == 2 and difference[1].startswith(option)
    assert difference[1].index(f' {values[0]}') < difference[1].rindex(f' {values[1]}')


@pytest.mark.parametrize('there, here, epochs, expected', [
    (LINEAR, LINEAR, (2, 2), [50, 50]),
    (LINEAR, dict(LINEAR, begin=0, by_epoch=True), (2, 2), [50, 50]),
    (LINEAR, dict(LINEAR, initial=80, final=20), (2, 2), [50, 50]),
    (LINEAR, dict(LINEAR, end=2), (2, 2), [50, 50]),
    (dict(LINEAR, end=2), LINEAR, (2, 2), [50, 50]),
    # The same weights in a longer training.
    (LINEAR, dict(LINEAR, end=2), (2, 3), [50, 50, 20, 20]),
    (dict(LINEAR, end=2), dict(LINEAR, end=2), (2, 3), [50, 50, 20, 20]),
    (dict(LINEAR, end=3, by_epoch=False), dict(LINEAR, end=3, by_epoch=False), (2, 3), [40, 20, 20, 20]),
    (STEP, STEP, (2, 4), [40, 40, 40, 40, 20, 20]),
    (STEP, dict(STEP, milestones=(1, 3)), (2, 2), [40, 40]),
    (EXPONENTIAL, EXPONENTIAL, (2, 3), [40, 40, 20, 20]),
    # A constant is the user's to change.
    (80., 30., (2, 2), [30, 30]),
    (80., dict(type='constant', initial=30.), (2, 3), [30] * 4),
    (80., 0., (2, 2), [0, 0]),
])
def test_resuming_with_an_equal_schedule_is_accepted(there, here, epochs, expected, distiller_config, make_runner):
    runner, seen = resume((there, here), epochs, distiller_config, make_runner)
    assert seen == pytest.approx(expected, rel=1e-12)
    assert runner.epoch == epochs[1]


def test_a_head_of_another_name_is_refused(distiller_config, make_runner):
    make_runner(distiller_config(at_heads=[at(LINEAR)]), epochs=1, **STEADY).train()
    runner = make_runner(distiller_config(at_heads=[at(LINEAR, name='mine')]), epochs=1, resume=True, **STEADY)
    with pytest.raises(CheckpointError, match=r'at\.type\b.*linear.*none.*; mine\.type\b.*none.*linear'):
        runner.train()


def test_a_run_from_another_ones_weights_takes_any_schedule(distiller_config, make_runner):
    first = make_runner(distiller_config(at_heads=[at(LINEAR)]), 'first', epochs=1)
    first.train()
    config = distiller_config(at_heads=[at(dict(LINEAR, initial=40.))])
    runner, seen = watched(make_runner(config, 'second', load_from=f'{first.work_dir}/epoch_1.pth'))
    runner.train()
    assert seen == [[40], [40], [30], [30]]


@pytest.mark.parametrize('by_epoch', [True, False])
def test_another_batch_size_leaves_the_weight_where_it_was(by_epoch, distiller_config, make_runner):
    config = distiller_config(at_heads=[at(dict(type='linear', initial=80., by_epoch=by_epoch))])
    make_runner(config, epochs=4, train_cfg=dict(max_epochs=4), default_hooks=dict(
        checkpoint=dict(type='mmat.CheckpointHook', interval=2)), **STEADY).train()
    first = make_runner(config, epochs=4, **STEADY)
    first.load_or_resume()
    steps = []

    class Watch(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            steps.append(runner.model.at_heads[0].weight)

    runner = make_runner(config, epochs=4, resume=True, load_from=f'{first.work_dir}/epoch_2.pth',
                         train_dataloader=dict(batch_size=16), **STEADY)
    runner.register_hook(Watch())
    runner.train()
    # Half of the training is done, so half of the weight is left.
    assert steps[0] == 40 and len(steps) == 8


def test_synchronised_bn_is_refused_under_input_gradients(distiller_config, make_runner):
    config = distiller_config(at_heads=[dict(type='mmat.GradientNormHead', weight=1.)])
    runner = make_runner(config)
    # As the Runner does for sync_bn='torch' among several processes.
    runner.model.student = convert_sync_batchnorm(runner.model.student)
    with pytest.raises(ConfigError, match='SyncBatchNorm'):
        runner.train()
