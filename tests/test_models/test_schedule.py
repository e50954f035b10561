import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmat.models.at_heads import WeightSchedule

# Of a training of 10 epochs with 4 iterations each: (arguments, {epochs or iterations done: weight}), all by hand.
EPOCHS, ITERATIONS = 10, 40
VALUES = [
    (dict(type='constant', initial=3), {0: 3, 7: 3, 10: 3, 99: 3}),
    (dict(type='linear', initial=10, final=2, begin=2, end=6), {0: 10, 2: 10, 3: 8, 4: 6, 5: 4, 6: 2, 9: 2, 99: 2}),
    # `final` is 0 where it is not given, and a weight may grow.
    (dict(type='linear', initial=8, end=4), {0: 8, 1: 6, 4: 0, 5: 0}),
    (dict(type='linear', initial=0, final=1, end=4), {0: 0, 1: 0.25, 4: 1, 5: 1}),
    # cos(pi / 3) = 1/2, cos(2 pi / 3) = -1/2: three quarters and one quarter of the way are left.
    (dict(type='cosine', initial=5, final=1, begin=1, end=7), {0: 5, 1: 5, 3: 4, 4: 3, 5: 2, 7: 1, 99: 1}),
    (dict(type='cosine', initial=4, end=4), {0: 4, 1: 2 + math.sqrt(2), 2: 2, 3: 2 - math.sqrt(2), 4: 0, 8: 0}),
    # From the milestone on, that is: after so many epochs.
    (dict(type='step', initial=8, milestones=[2, 5, 6], gamma=0.5), {0: 8, 1: 8, 2: 4, 4: 4, 5: 2, 6: 1, 99: 1}),
    # Nothing moves after `end`.
    (dict(type='step', initial=8, milestones=[2, 6], gamma=0.5, end=4), {1: 8, 2: 4, 5: 4, 6: 4, 99: 4}),
    (dict(type='exponential', initial=8, gamma=0.5), {0: 8, 1: 4, 2: 2, 3: 1, 10: 8 / 1024}),
    (dict(type='exponential', initial=8, gamma=0.5, begin=2, end=4), {0: 8, 2: 8, 3: 4, 4: 2, 5: 2, 99: 2}),
    (dict(type='exponential', initial=8, gamma=1), {0: 8, 5: 8, 99: 8}),
]


def by_hand(options, done, length):
    """The docstring's formulas, a weight of one moment, without begin and end where they do not matter."""
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
        # What is not counted is elsewhere, and must not matter.
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
            # Behind the end of training all stays as it was.
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


def test_it_counts_epochs_unless_told():
    assert WeightSchedule.build(dict(type='linear', initial=8)).at(1, 0, 4, 100) == 6
    assert WeightSchedule.build(dict(type='linear', initial=8, by_epoch=False)).at(0, 50, 4, 100) == 4


@pytest.mark.parametrize('type, options', [('linear', {}), ('cosine', {}), ('exponential', dict(gamma=0.5))])
@pytest.mark.parametrize('by_epoch, unit', [(True, 'epochs'), (False, 'iterations')])
def test_one_that_begins_when_training_has_ended_is_refused(type, options, by_epoch, unit):
    schedule = WeightSchedule.build(dict(type=type, initial=1., begin=5, by_epoch=by_epoch, **options))
    lengths = (5, 100) if by_epoch else (100, 5)
    with pytest.raises(ValueError, match=f'the {type} schedule .*begins at 5, but the training ends at 5.*{unit}'):
        schedule.at(0, 0, *lengths)
    assert schedule.at(0, 0, *(length + 1 for length in lengths)) == 1


# From a config

@pytest.mark.parametrize('weight', [0, 0.5, 1000, 1e-3])
def test_a_number_is_a_constant(weight):
    schedule = WeightSchedule.build(weight)
    assert schedule.is_constant and schedule.initial == schedule.greatest == weight
    assert schedule.at(3, 30, 10, 100) == weight


def test_a_schedule_is_given_back():
    schedule = WeightSchedule('linear', 5.)
    assert WeightSchedule.build(schedule) is schedule


def test_a_dict_gives_what_its_keys_say():
    options = dict(type='step', initial=8, milestones=(2, 5), gamma=0.5, begin=1, end=9, by_epoch=False)
    schedule = WeightSchedule.build(options)
    assert {name: getattr(schedule, name) for name in options} == options
    assert not schedule.is_constant


@pytest.mark.parametrize('options', [options for options, _ in VALUES])
def test_dicts_of_mmengines_configs_are_taken(options, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f'weight = {options!r}\n')
    for config in (ConfigDict(options), Config(dict(weight=options)).weight, Config.fromfile(path).weight):
        schedule, plain = WeightSchedule.build(config), WeightSchedule.build(options)
        assert schedule.ended(10, 40) == plain.ended(10, 40)
        assert [schedule.at(t, 4 * t, 10, 40) for t in range(12)] == [plain.at(t, 4 * t, 10, 40) for t in range(12)]


def test_building_leaves_the_config_as_it_is():
    options = dict(type='step', initial=8, milestones=[2, 5], gamma=0.5)
    before = dict(options, milestones=list(options['milestones']))
    WeightSchedule.build(options)
    assert options == before


def test_it_does_not_change():
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
def test_greatest_is_what_no_moment_exceeds(options, greatest):
    schedule = WeightSchedule.build(options)
    assert schedule.greatest == greatest
    assert max(schedule.at(t, 0, 10, 10) for t in range(12)) == pytest.approx(greatest, rel=1e-12)


# What a run's weights depend on

@pytest.mark.parametrize('options', [options for options, _ in VALUES] + [
    dict(type='step', initial=8, milestones=(2, 5), gamma=0.5),
    ConfigDict(type='step', initial=8, milestones=[2, 5], gamma=0.5),
])
def test_it_is_kept_as_plain_values(options, tmp_path):
    ended = WeightSchedule.build(options).ended(EPOCHS, ITERATIONS)
    torch.save(ended, tmp_path / 'ended.pth')
    loaded = torch.load(tmp_path / 'ended.pth', weights_only=True)
    assert loaded == ended
    assert {type(value) for value in loaded.values()} <= {str, int, float, bool, list, type(None)}
    # All of it: a schedule from these is the same one.
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
def test_what_a_config_computed_with_numpy_is_kept_plain_too(options, tmp_path):
    # A checkpoint that holds it could not be read: the run could not be resumed.
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
def test_what_is_kept_tells_lengths_apart_where_they_matter(options, depends):
    schedule = WeightSchedule.build(options)
    first, second = (schedule.ended(length, 100) for length in (5, 6))
    assert (first != second) == depends
    # And so do the weights that a run of the shorter length has seen.
    weights = [[schedule.at(t, 0, length, 100) for t in range(5)] for length in (5, 6)]
    assert (weights[0] != weights[1]) == depends


def test_what_is_kept_counts_in_the_schedules_unit():
    assert WeightSchedule('linear', 1.).ended(5, 50)['end'] == 5
    assert WeightSchedule('linear', 1., by_epoch=False).ended(5, 50)['end'] == 50
    assert WeightSchedule('linear', 1., end=3).ended(5, 50) == WeightSchedule('linear', 1.).ended(3, 50)


# Options

LINEAR, STEP = dict(type='linear', initial=1.), dict(type='step', initial=1., milestones=[1], gamma=0.5)
AT_LEAST_0 = 'must be a number of at least 0, got'


@pytest.mark.parametrize('weight, message', [
    (-1, 'the weight of a transfer head must be at least 0, got -1'),
    (float('nan'), 'got nan'),
    (float('inf'), 'got inf'),
    (True, 'got True'),
    ('1', r"got '1'; a schedule is a dict\(type="),
    (None, 'got None'),
    ([1., 0.], r'got \[1.0, 0.0\]'),
    (dict(LINEAR, type='linaer'), "must be one of .*'cosine'.*'step'.*got 'linaer'"),
    (dict(initial=1.), 'must be one of .*got None'),
    ({}, 'must be one of .*got None'),
    (dict(LINEAR, finall=0.), "a linear schedule takes no 'finall'; the closest is 'final'"),
    (dict(STEP, milestone=[1]), "a step schedule takes no 'milestone'; the closest is 'milestones'"),
    (dict(LINEAR, byepoch=True), "takes no 'byepoch'; the closest is 'by_epoch'"),
    # Another type's arguments.
    (dict(LINEAR, gamma=0.5), "linear schedule takes no 'gamma'; it takes type, initial, final, begin, end, by_epoch"),
    (dict(STEP, final=0.), "a step schedule takes no 'final'"),
    (dict(type='constant', initial=1., final=0.), "a constant schedule takes no 'final'"),
    (dict(type='exponential', initial=1., gamma=0.5, milestones=[1]), "takes no 'milestones'"),
    (dict(type='linear', final=0.), 'a linear schedule needs `initial`'),
    (dict(LINEAR, initial=-1), f'initial of a weight schedule {AT_LEAST_0} -1'),
    (dict(LINEAR, initial=True), f'{AT_LEAST_0} True'),
    (dict(LINEAR, initial=float('nan')), f'{AT_LEAST_0} nan'),
    (dict(LINEAR, initial=float('inf')), f'{AT_LEAST_0} inf'),
    (dict(LINEAR, initial='1'), f"{AT_LEAST_0} '1'"),
    (dict(LINEAR, initial=None), f'{AT_LEAST_0} None'),
    (dict(LINEAR, final=-1), f'final of a weight schedule {AT_LEAST_0} -1'),
    (dict(LINEAR, final=True), f'final .*{AT_LEAST_0} True'),
    (dict(LINEAR, final=float('nan')), f'final .*{AT_LEAST_0} nan'),
    (dict(LINEAR, final='0'), f"final .*{AT_LEAST_0} '0'"),
    (dict(LINEAR, begin=-1), 'must begin at 0 or later and end after that, got begin=-1 and end=None'),
    (dict(LINEAR, begin=2, end=2), 'got begin=2 and end=2'),
    (dict(LINEAR, begin=3, end=2), 'got begin=3 and end=2'),
    (dict(LINEAR, end=0), 'got begin=0 and end=0'),
    (dict(STEP, milestones=[]), r'milestones of a step schedule must increase, got \[\]'),
    (dict(STEP, milestones=[2, 1]), r'must increase, got \[2, 1\]'),
    (dict(STEP, milestones=[1, 1]), r'must increase, got \[1, 1\]'),
    (dict(type='step', initial=1., gamma=0.5), r'milestones of a step schedule must increase, got \(\)'),
    (dict(type='step', initial=1., milestones=[1]), r'gamma of a step schedule must be in \(0, 1\], got None'),
    *((dict(type=type, initial=1., gamma=gamma, **more), rf'gamma of a {type} schedule .* \(0, 1\], got {gamma}')
      for type, more in (('step', dict(milestones=[1])), ('exponential', {}))
      for gamma in (0, -0.5, 1.5, float('nan'), float('inf'), True)),
    (dict(type='exponential', initial=1., gamma='0.5'), "got '0.5'"),
    (dict(type='exponential', initial=1.), 'got None'),
])
def test_bad_options_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        WeightSchedule.build(weight)
    if isinstance(weight, dict):
        with pytest.raises(ValueError, match=message):
            WeightSchedule.build(ConfigDict(weight))


@pytest.mark.parametrize('options, message', [
    (dict(LINEAR, begin='1'), "begin='1'"),
    (dict(LINEAR, begin=None), 'begin=None'),
    (dict(LINEAR, begin=True), 'begin=True'),
    (dict(LINEAR, begin=float('nan')), 'begin=nan'),
    (dict(LINEAR, end='4'), "end='4'"),
    (dict(LINEAR, end=True), 'end=True'),
    (dict(LINEAR, end=float('nan')), 'end=nan'),
    (dict(STEP, milestones=3), 'milestones .*3'),
    (dict(STEP, milestones='12'), "milestones .*'12'"),
    (dict(STEP, milestones=['1']), "milestones .*'1'"),
    (dict(STEP, milestones=[True]), 'milestones .*True'),
    (dict(STEP, milestones=[float('nan')]), 'milestones .*nan'),
    # It would count as True.
    (dict(LINEAR, by_epoch='False'), "by_epoch.*'False'"),
    (dict(LINEAR, type=['linear']), 'type of a weight schedule must be one of'),
])
def test_what_is_no_number_of_epochs_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WeightSchedule.build(options)


@pytest.mark.parametrize('type, options', [
    ('constnat', {}), ('linear', dict(final=-1.)), ('exponential', dict(gamma=2.)), ('step', dict(gamma=0.5))])
def test_made_directly_it_refuses_the_same(type, options):
    with pytest.raises(ValueError, match='schedule'):
        WeightSchedule(type, 1., **options)


@pytest.mark.parametrize('milestones', [[0], [2], [1, 5]])
def test_milestones_lie_after_the_begin(milestones):
    with pytest.raises(ValueError, match='milestones of a step schedule must increase'):
        WeightSchedule.build(dict(type='step', initial=1., milestones=milestones, gamma=0.5, begin=2))
