import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmat.errors import ConfigError
from mmat.models.at_heads import WeightSchedule

# Of a training of 10 epochs with 4 iterations each: (arguments, {epochs or iterations done: weight}), all by hand.
EPOCHS, ITERATIONS = 10, 40
VALUES = [
    (dict(type='constant', initial=3), {0: 3, 7: 3, 10: 3, 99: 3}),
    (dict(type='linear', initial=10, final=2, begin=2, end=6), {0: 10, 2: 10, 3: 8, 4: 6, 5: 4, 6: 2, 9: 2, 99: 2}),
    # `final` defaults to 0. A weight may grow.
    (dict(type='linear', initial=8, end=4), {0: 8, 1: 6, 4: 0, 5: 0}),
    (dict(type='linear', initial=0, final=1, end=4), {0: 0, 1: 0.25, 4: 1, 5: 1}),
    # cos(pi / 3) = 1/2, cos(2 pi / 3) = -1/2: three quarters and one quarter of the way are left.
    (dict(type='cosine', initial=5, final=1, begin=1, end=7), {0: 5, 1: 5, 3: 4, 4: 3, 5: 2, 7: 1, 99: 1}),
    (dict(type='cosine', initial=4, end=4), {0: 4, 1: 2 + math.sqrt(2), 2: 2, 3: 2 - math.sqrt(2), 4: 0, 8: 0}),
    # The weight drops once the epochs done reach a milestone.
    (dict(type='step', initial=8, milestones=[2, 5, 6], gamma=0.5), {0: 8, 1: 8, 2: 4, 4: 4, 5: 2, 6: 1, 99: 1}),
    # Nothing changes after `end`.
    (dict(type='step', initial=8, milestones=[2, 6], gamma=0.5, end=4), {1: 8, 2: 4, 5: 4, 6: 4, 99: 4}),
    (dict(type='exponential', initial=8, gamma=0.5), {0: 8, 1: 4, 2: 2, 3: 1, 10: 8 / 1024}),
    (dict(type='exponential', initial=8, gamma=0.5, begin=2, end=4), {0: 8, 2: 8, 3: 4, 4: 2, 5: 2, 99: 2}),
    (dict(type='exponential', initial=8, gamma=1), {0: 8, 5: 8, 99: 8}),
]


def by_hand(options, done, length):
    """Compute one weight from the formulas of the docstring."""
    kind, initial, final = options['type'], options['initial'], options.get('final', 0)
    begin, end = options.get('begin', 0), options.get('end', length)
    if kind == 'step':
        for milestone in options['milestones']:
            initial = initial * options['gamma'] if min(done, end) >= milestone else initial
        return initial
    if kind == 'exponential':
        for _ in range(begin, min(done, end)):
            initial = initial * options['gamma']
        return initial
    if kind == 'constant' or done <= begin:
        return initial
    if done >= end:
        return final
    share = (end - done) / (end - begin)
    # (1 + cos(pi r)) / 2 is the square of the cosine of half of it.
    left = share if kind == 'linear' else math.cos(math.pi / 2 * (1 - share))**2
    return left * initial + (1 - left) * final


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('options, values', VALUES)
def test_values_by_hand(options, values, by_epoch):
    schedule = WeightSchedule.build(dict(options, by_epoch=by_epoch))
    for done, value in values.items():
        # The other unit has other numbers, which must not matter.
        progress = (done, 1234) if by_epoch else (1234, done)
        lengths = (EPOCHS, 5678) if by_epoch else (5678, EPOCHS)
        assert schedule.at(*progress, *lengths) == pytest.approx(value, rel=1e-12, abs=1e-15), done


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('options', [
    dict(type='constant', initial=0.25),
    dict(type='linear', initial=1e3, final=7.),
    dict(type='linear', initial=0.1, final=0.7, begin=3),
    dict(type='linear', initial=1., begin=1, end=9),
    dict(type='cosine', initial=1e3),
    dict(type='cosine', initial=0.1, final=0.7, begin=3, end=8),
    dict(type='step', initial=1e3, milestones=(3, 4, 8), gamma=0.2),
    dict(type='step', initial=1e3, milestones=(3, 4, 8), gamma=0.2, end=4),
    dict(type='exponential', initial=1e3, gamma=0.9),
    dict(type='exponential', initial=1e3, gamma=0.9, begin=4, end=7),
])
def test_every_moment_follows_the_formula(options, by_epoch):
    schedule = WeightSchedule.build(dict(options, by_epoch=by_epoch))
    for epoch in range(EPOCHS + 3):
        for iteration in range(4 * epoch, 4 * epoch + 4):
            done, length = (epoch, EPOCHS) if by_epoch else (iteration, ITERATIONS)
            found = schedule.at(epoch, iteration, EPOCHS, ITERATIONS)
            # After the end of training nothing changes.
            expected = by_hand(options, min(done, length), length)
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), (epoch, iteration)


@pytest.mark.parametrize('type', ['linear', 'cosine'])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_no_end_means_the_end_of_training(type, by_epoch):
    schedule = WeightSchedule(type, 8., final=2., by_epoch=by_epoch)
    for epochs in (2, 8, 200):
        iterations = 10 * epochs
        assert schedule.at(0, 0, epochs, iterations) == 8
        assert schedule.at(epochs // 2, iterations // 2, epochs, iterations) == pytest.approx(5, rel=1e-12)
        assert schedule.at(epochs, iterations, epochs, iterations) == 2


def test_epochs_are_counted_by_default():
    assert WeightSchedule.build(dict(type='linear', initial=8)).at(1, 0, 4, 100) == 6
    assert WeightSchedule.build(dict(type='linear', initial=8, by_epoch=False)).at(0, 50, 4, 100) == 4


@pytest.mark.parametrize('type, options', [('linear', {}), ('cosine', {}), ('exponential', dict(gamma=0.5))])
@pytest.mark.parametrize('by_epoch, unit', [(True, 'epoch'), (False, 'iteration')])
def test_a_schedule_that_begins_after_the_end_of_training_is_refused(type, options, by_epoch, unit):
    schedule = WeightSchedule.build(dict(type=type, initial=1., begin=5, by_epoch=by_epoch, **options))
    lengths = (4, 100) if by_epoch else (100, 4)
    with pytest.raises(ConfigError, match=f'{type}.* {unit} 5.* {unit} 4'):
        schedule.at(0, 0, *lengths)
    with pytest.raises(ConfigError, match=f' {unit} 5.* {unit} 5'):
        schedule.at(0, 0, *(length + 1 for length in lengths))
    assert schedule.at(0, 0, *(length + 2 for length in lengths)) == 1


# From a config

@pytest.mark.parametrize('weight', [0, 0.5, 1000, 1e-3])
def test_a_number_is_a_constant(weight):
    schedule = WeightSchedule.build(weight)
    assert schedule.is_constant and schedule.initial == schedule.greatest == weight
    assert schedule.at(3, 30, 10, 100) == weight


def test_build_returns_a_schedule_unchanged():
    schedule = WeightSchedule('linear', 5.)
    assert WeightSchedule.build(schedule) is schedule


def test_a_dict_sets_its_keys():
    options = dict(type='step', initial=8, milestones=(2, 5), gamma=0.5, begin=1, end=9, by_epoch=False)
    schedule = WeightSchedule.build(options)
    assert {name: getattr(schedule, name) for name in options} == options
    assert not schedule.is_constant


@pytest.mark.parametrize('options', [options for options, _ in VALUES])
def test_dicts_of_mmengines_configs_are_accepted(options, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f'weight = {options!r}\n')
    for config in (ConfigDict(options), Config(dict(weight=options)).weight, Config.fromfile(path).weight):
        schedule, plain = WeightSchedule.build(config), WeightSchedule.build(options)
        assert schedule.ended(10, 40) == plain.ended(10, 40)
        assert [schedule.at(t, 4 * t, 10, 40) for t in range(12)] == [plain.at(t, 4 * t, 10, 40) for t in range(12)]


def test_building_does_not_change_the_config():
    options = dict(type='step', initial=8, milestones=[2, 5], gamma=0.5)
    before = dict(options, milestones=list(options['milestones']))
    WeightSchedule.build(options)
    assert options == before


def test_a_schedule_is_frozen():
    schedule = WeightSchedule('linear', 5.)
    with pytest.raises(FrozenInstanceError):
        schedule.initial = 4.


@pytest.mark.parametrize('options, greatest', [
    (dict(type='constant', initial=3.), 3),
    (dict(type='linear', initial=3., final=1.), 3),
    (dict(type='linear', initial=1., final=3.), 3),
    (dict(type='cosine', initial=1., final=3.), 3),
    (dict(type='cosine', initial=3.), 3),
    (dict(type='step', initial=3., milestones=[1], gamma=0.5), 3),
    (dict(type='exponential', initial=3., gamma=0.9), 3),
])
def test_greatest_is_the_maximum_of_the_weights(options, greatest):
    schedule = WeightSchedule.build(options)
    assert schedule.greatest == greatest
    assert max(schedule.at(t, 0, 10, 10) for t in range(12)) == pytest.approx(greatest, rel=1e-12)


# Options in a checkpoint

@pytest.mark.parametrize('options', [options for options, _ in VALUES] + [
    dict(type='step', initial=8, milestones=(2, 5), gamma=0.5),
    ConfigDict(type='step', initial=8, milestones=[2, 5], gamma=0.5),
])
def test_options_are_saved_as_plain_values(options, tmp_path):
    ended = WeightSchedule.build(options).ended(EPOCHS, ITERATIONS)
    torch.save(ended, tmp_path / 'ended.pth')
    loaded = torch.load(tmp_path / 'ended.pth', weights_only=True)
    assert loaded == ended
    assert {type(value) for value in loaded.values()} <= {str, int, float, bool, list, type(None)}
    # They are complete: a schedule built from them is equal.
    plain = {key: value for key, value in loaded.items() if key in options or key == 'end'}
    again = WeightSchedule.build(plain)
    expected = WeightSchedule.build(options)
    for t in range(12):
        assert again.at(t, 4 * t, EPOCHS, ITERATIONS) == expected.at(t, 4 * t, EPOCHS, ITERATIONS)


@pytest.mark.parametrize('options', [
    dict(type='linear', initial=np.float64(0.5)),
    dict(type='linear', initial=0.5, end=np.int64(5)),
    dict(type='step', initial=0.5, milestones=[2, np.int64(4)], gamma=0.5),
])
def test_numpy_values_are_saved_as_plain_values(options, tmp_path):
    # A checkpoint with NumPy values could not be read, so the run could not be resumed.
    torch.save(WeightSchedule.build(options).ended(EPOCHS, ITERATIONS), tmp_path / 'ended.pth')
    assert torch.load(tmp_path / 'ended.pth', weights_only=True)['type'] == options['type']


@pytest.mark.parametrize('options, depends', [
    (dict(type='linear', initial=1.), True),
    (dict(type='cosine', initial=1.), True),
    (dict(type='linear', initial=1., end=3), False),
    (dict(type='cosine', initial=1., end=3), False),
    (dict(type='step', initial=1., milestones=[1], gamma=0.5), False),
    (dict(type='exponential', initial=1., gamma=0.5), False),
])
def test_saved_options_differ_with_the_length_where_the_weights_do(options, depends):
    schedule = WeightSchedule.build(options)
    first, second = (schedule.ended(length, 100) for length in (5, 6))
    assert (first != second) == depends
    # So do the weights of the shorter run.
    weights = [[schedule.at(t, 0, length, 100) for t in range(5)] for length in (5, 6)]
    assert (weights[0] != weights[1]) == depends


def test_the_saved_end_is_in_the_schedules_unit():
    assert WeightSchedule('linear', 1.).ended(5, 50)['end'] == 5
    assert WeightSchedule('linear', 1., by_epoch=False).ended(5, 50)['end'] == 50
    assert WeightSchedule('linear', 1., end=3).ended(5, 50) == WeightSchedule('linear', 1.).ended(3, 50)


# Options

LINEAR, STEP = dict(type='linear', initial=1.), dict(type='step', initial=1., milestones=[1], gamma=0.5)


@pytest.mark.parametrize('weight, parts', [
    (-1, ['transfer head', 'got -1']),
    (float('nan'), ['transfer head', 'got nan']),
    (float('inf'), ['transfer head', 'got inf']),
    (True, ['transfer head', 'got True']),
    ('1', ["got '1'", "dict(type='linear'"]),
    (None, ['transfer head', 'got None']),
    ([1., 0.], ['transfer head', 'got [1.0, 0.0]']),
    (dict(LINEAR, type='linaer'), ["'cosine'", "'step'", "got 'linaer'", "'linear' or 'cosine'?"]),
    (dict(initial=1.), ["'cosine'", "'step'", 'got None']),
    ({}, ["'cosine'", "'step'", 'got None']),
    (dict(LINEAR, finall=0.), ['linear', "'finall'", "'final' or 'initial'?"]),
    (dict(STEP, milestone=[1]), ['step', "'milestone'", "'milestones'?"]),
    (dict(LINEAR, byepoch=True), ["'byepoch'", "'by_epoch'?"]),
    # Arguments of another type. No argument is close, so all are listed.
    (dict(LINEAR, gamma=0.5), ['linear', "'gamma'", 'type, initial, final, begin, end, by_epoch']),
    (dict(STEP, final=0.), ['step', "'final'"]),
    (dict(type='constant', initial=1., final=0.), ['constant', "'final'"]),
    (dict(type='exponential', initial=1., gamma=0.5, milestones=[1]), ['exponential', "'milestones'"]),
    (dict(type='linear', final=0.), ['linear', "'initial'", "'final': 0.0"]),
    (dict(LINEAR, initial=-1), ['initial of', 'got -1']),
    (dict(LINEAR, initial=True), ['initial of', 'got True']),
    (dict(LINEAR, initial=float('nan')), ['initial of', 'got nan']),
    (dict(LINEAR, initial=float('inf')), ['initial of', 'got inf']),
    (dict(LINEAR, initial='1'), ['initial of', "got '1'"]),
    (dict(LINEAR, initial=None), ['initial of', 'got None']),
    (dict(LINEAR, final=-1), ['final of', 'got -1']),
    (dict(LINEAR, final=True), ['final of', 'got True']),
    (dict(LINEAR, final=float('nan')), ['final of', 'got nan']),
    (dict(LINEAR, final='0'), ['final of', "got '0'"]),
    (dict(LINEAR, begin=-1), ['begin=-1', 'end=None']),
    (dict(LINEAR, begin=2, end=2), ['begin=2', 'end=2']),
    (dict(LINEAR, begin=3, end=2), ['begin=3', 'end=2']),
    (dict(LINEAR, end=0), ['begin=0', 'end=0']),
    (dict(STEP, milestones=[]), ['milestones', 'got []']),
    (dict(STEP, milestones=[2, 1]), ['milestones', 'got [2, 1]']),
    (dict(STEP, milestones=[1, 1]), ['milestones', 'got [1, 1]']),
    (dict(type='step', initial=1., gamma=0.5), ['milestones', 'got ()']),
    (dict(type='step', initial=1., milestones=[1]), ['gamma of a step', '(0, 1]', 'got None']),
    *((dict(type=type, initial=1., gamma=gamma, **more), [f'gamma of a {type} ', '(0, 1]', f'got {gamma}'])
      for type, more in (('step', dict(milestones=[1])), ('exponential', {}))
      for gamma in (0, -0.5, 1.5, float('nan'), float('inf'), True)),
    (dict(type='exponential', initial=1., gamma='0.5'), ['gamma of', "got '0.5'"]),
    (dict(type='exponential', initial=1.), ['gamma of', 'got None']),
    # No number of epochs.
    (dict(LINEAR, begin='1'), ["begin='1'"]),
    (dict(LINEAR, begin=None), ['begin=None']),
    (dict(LINEAR, begin=True), ['begin=True']),
    (dict(LINEAR, begin=float('nan')), ['begin=nan']),
    (dict(LINEAR, end='4'), ["end='4'"]),
    (dict(LINEAR, end=True), ['end=True']),
    (dict(LINEAR, end=float('nan')), ['end=nan']),
    (dict(STEP, milestones=3), ['milestones', 'got 3']),
    (dict(STEP, milestones='12'), ['milestones', "got '12'"]),
    (dict(STEP, milestones=['1']), ['milestones', "got ['1']"]),
    (dict(STEP, milestones=[True]), ['milestones', 'got [True]']),
    (dict(STEP, milestones=[float('nan')]), ['milestones', 'got [nan]']),
    # A non-empty string counts as True.
    (dict(LINEAR, by_epoch='False'), ['by_epoch', "got 'False'"]),
    (dict(LINEAR, type=['linear']), ["'cosine'", "'step'", "got ['linear']"]),
])
def test_bad_options_are_refused(weight, parts):
    for value in (weight, ConfigDict(weight)) if isinstance(weight, dict) else (weight, ):
        with pytest.raises(ConfigError) as error:
            WeightSchedule.build(value)
        for part in parts:
            assert part in str(error.value)


@pytest.mark.parametrize('type, options, parts', [
    ('constnat', {}, ["'constnat'", "'constant', 'cosine' or 'exponential'?"]),
    ('linear', dict(final=-1.), ['final of', 'got -1.0']),
    ('exponential', dict(gamma=2.), ['gamma of', 'got 2.0']),
    ('step', dict(gamma=0.5), ['milestones', 'got ()']),
])
def test_the_constructor_refuses_the_same(type, options, parts):
    with pytest.raises(ConfigError) as error:
        WeightSchedule(type, 1., **options)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize('milestones', [[0], [2], [1, 5]])
def test_milestones_come_after_the_begin(milestones):
    with pytest.raises(ConfigError) as error:
        WeightSchedule.build(dict(type='step', initial=1., milestones=milestones, gamma=0.5, begin=2))
    assert 'milestones' in str(error.value) and f'got {milestones}' in str(error.value)
