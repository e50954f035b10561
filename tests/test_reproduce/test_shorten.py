import copy

import numpy as np
import pytest
from mmengine.config import Config, DictAction

from mmat.errors import ConfigError
from mmat.reproduce.shorten import shorten
from mmat.tooling.schedules import simulate_schedules

MULTI = dict(type='MultiStepLR', milestones=[60, 120, 160], gamma=0.2)
WARM = [dict(type='LinearLR', start_factor=0.1, begin=0, end=20),
        dict(type='CosineAnnealingLR', T_max=180, eta_min=0.001, begin=20, end=200)]


@pytest.fixture
def make_config(network_config, distiller_config):
    """Make a config with 200 epochs."""

    def make(schedulers, weight=None, **train_cfg):
        model = network_config() if weight is None else distiller_config(dict(weight=weight))
        return Config(dict(
            model=model, train_cfg=dict(by_epoch=True, max_epochs=200, **train_cfg), default_scope='mmengine',
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), param_scheduler=copy.deepcopy(schedulers)),
            cfg_text='-', filename='c.py')

    return make


def shortened(config, scale):
    """Return the config with the options, written and parsed as on a command line."""
    arguments = [f'{key}={str(value).replace(" ", "")}' for key, value in shorten(config, scale).items()]
    options = {key: DictAction._parse_iterable(value) for key, value in (each.split('=', 1) for each in arguments)}
    config = copy.deepcopy(config)
    config.merge_from_dict(options)
    return config


def curves(config, kind='optimizer'):
    """Return the learning rate, or the head's weight, of each epoch."""
    values = simulate_schedules(config, 1)[kind]
    return next(iter(values.values()))


def assert_alike(one, other):
    """Check that both are equal at each fraction of the training, within an epoch of the shorter one."""
    coarse, fine = sorted((one, other), key=len)
    ratio = len(fine) / len(coarse)
    for epoch, value in enumerate(coarse):
        stands_for = fine[max(0, int((epoch - 1) * ratio)):int((epoch + 2) * ratio) + 1]
        assert stands_for.min() * (1 - 1e-6) <= value <= stands_for.max() * (1 + 1e-6)
    assert coarse[0] == pytest.approx(fine[0], rel=0.05)


@pytest.mark.parametrize('schedulers', [
    MULTI,
    dict(type='StepLR', step_size=40, gamma=0.5),
    dict(type='CosineAnnealingLR', T_max=200, eta_min=1e-4),
    dict(type='ExponentialLR', gamma=0.98),
    dict(type='CosineRestartLR', periods=[80, 120], restart_weights=[1, 0.5], eta_min=0.),
    dict(type='PolyLR', power=1, begin=0, end=200),
    WARM,
    [dict(type='ConstantLR', factor=0.1, begin=0, end=20), dict(type='MultiStepLR', milestones=[100, 160], gamma=0.1)],
], ids=lambda schedulers: ' and '.join(
    each['type'] for each in (schedulers if isinstance(schedulers, list) else [schedulers])))
@pytest.mark.parametrize('scale', [0.1, 0.5, 2])
def test_the_learning_rate_at_each_fraction_of_the_training(make_config, schedulers, scale):
    long, short = make_config(schedulers), shortened(make_config(schedulers), scale)
    assert short.train_cfg.max_epochs == 200 * scale
    assert len(curves(short)) == 200 * scale
    assert_alike(curves(long), curves(short))


@pytest.mark.parametrize('schedulers', [MULTI, dict(type='StepLR', step_size=40, gamma=0.5)])
def test_steps_are_at_the_same_fraction(make_config, schedulers):
    long, short = make_config(schedulers), shortened(make_config(schedulers), 0.05)
    np.testing.assert_allclose(curves(short), curves(long)[::20])


def test_by_hand(make_config):
    assert shorten(make_config(WARM), 0.1) == {
        'train_cfg.max_epochs': 20, 'param_scheduler.0.begin': 0, 'param_scheduler.0.end': 2,
        'param_scheduler.1.T_max': 18, 'param_scheduler.1.begin': 2, 'param_scheduler.1.end': 20}
    config = make_config(MULTI)
    before = copy.deepcopy(config.to_dict())
    assert shorten(config, 0.1) == {'train_cfg.max_epochs': 20, 'param_scheduler.milestones': [6, 12, 16]}
    assert config.to_dict() == before
    assert shorten(config, 1) == {}
    assert shorten(make_config(None), 0.1) == {'train_cfg.max_epochs': 20}


def test_schedules_by_iteration_are_unchanged(make_config):
    config = make_config([dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500), MULTI])
    assert shorten(config, 0.1) == {'train_cfg.max_epochs': 20, 'param_scheduler.1.milestones': [6, 12, 16]}


@pytest.mark.parametrize('schedulers', [MULTI, WARM, dict(type='ExponentialLR', gamma=0.98)])
def test_one_epoch_is_trained_at_the_first_learning_rate(make_config, schedulers):
    rates = curves(shortened(make_config(schedulers), 0.001))
    assert rates == pytest.approx([0.01 if schedulers is WARM else 0.1])


WEIGHTS = [
    dict(type='linear', initial=1000, final=0),
    dict(type='linear', initial=1000, final=10, begin=40, end=160),
    dict(type='cosine', initial=1000, begin=100),
    dict(type='step', initial=1000, milestones=[80, 160], gamma=0.1),
    dict(type='exponential', initial=1000, gamma=0.97),
]


@pytest.mark.parametrize('weight', WEIGHTS, ids=str)
@pytest.mark.parametrize('scale', [0.1, 2])
def test_weights_of_heads_at_each_fraction_of_the_training(make_config, weight, scale):
    config = make_config(MULTI, weight)
    whole, part = curves(config, 'heads'), curves(shortened(config, scale), 'heads')
    assert len(part) == 200 * scale
    assert_alike(whole, part)


@pytest.mark.parametrize('weight', WEIGHTS, ids=str)
@pytest.mark.parametrize('epochs', [1, 2, 3])
def test_weight_schedules_stay_valid_in_very_short_trainings(make_config, weight, epochs):
    part = curves(shortened(make_config(MULTI, weight), epochs / 200), 'heads')
    assert len(part) == epochs and part[0] == 1000 and (np.diff(part) <= 0).all()


def test_a_constant_weight_is_unchanged(make_config):
    assert set(shorten(make_config(MULTI, 100.), 0.1)) == {'train_cfg.max_epochs', 'param_scheduler.milestones'}


@pytest.mark.parametrize('scale', [0, -1, float('nan'), float('inf')])
def test_impossible_scales(make_config, scale):
    with pytest.raises(ConfigError, match=f'--epochs-scale .*{scale}'):
        shorten(make_config(MULTI), scale)


def test_iterations_are_refused(make_config):
    config = make_config(MULTI)
    config.train_cfg = dict(by_epoch=False, max_iters=1000)
    with pytest.raises(ConfigError, match='c.py .*iterations'):
        shorten(config, 0.1)
