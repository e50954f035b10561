"""Scale the number of epochs of a config, and its schedules with it."""
from typing import Dict

from mmengine.config import Config

from mmat.errors import ConfigError

# Arguments in epochs of mmengine's parameter schedulers.
_SCHEDULER_TIMES = ('milestones', 'step_size', 'T_max', 'periods', 'begin', 'end', 'total_iters', 'total_steps')
# Arguments in epochs of weight schedules of transfer heads; without `end`, a schedule ends with the training.
_WEIGHT_TIMES = ('milestones', 'begin', 'end')


def shorten(config: Config, scale: float) -> Dict[str, object]:
    """Return the settings that scale a config's epochs, and all schedules that count epochs.

    Schedules of learning rates and of transfer heads' weights change at the same fractions of the training, rounded to
    whole epochs.

    Args:
        config (Config): A config that trains by epochs. It is not changed.
        scale (float): Factor for the number of epochs, such as 0.05. The result is at least one epoch.

    Returns:
        dict: Setting -> value, as for ``--cfg-options``; empty if ``scale`` is 1.

    Raises:
        ConfigError: ``scale`` is not positive and finite, or the config trains by iterations.
    """
    if not 0 < scale < float('inf'):
        raise ConfigError(f'--epochs-scale must be a positive number, got {scale}.')
    if not config.train_cfg.get('by_epoch', True) or 'max_epochs' not in config.train_cfg:
        raise ConfigError(f'{config.filename} trains by iterations. Only epochs can be scaled.')
    if scale == 1:
        return {}
    before = config.train_cfg.max_epochs
    after = max(1, round(before * scale))
    options = {'train_cfg.max_epochs': after}

    def scaled(epochs):
        if isinstance(epochs, (list, tuple)):
            return [scaled(each) for each in epochs]
        return epochs if epochs == 0 else max(1, round(epochs * after / before))

    def collect(settings, prefix, names):
        for name in names:
            if settings.get(name) is not None:
                options[f'{prefix}.{name}'] = scaled(settings[name])
        if f'{prefix}.end' in options:
            # Schedules must last at least one epoch.
            options[f'{prefix}.end'] = max(options[f'{prefix}.end'], options.get(f'{prefix}.begin', 0) + 1)
        if str(settings.get('type')).lower().startswith('exponential'):
            options[f'{prefix}.gamma'] = settings['gamma']**(before / after)

    for prefix, scheduler in _with_keys('param_scheduler', config.get('param_scheduler')):
        if scheduler.get('by_epoch', True):
            collect(scheduler, prefix, _SCHEDULER_TIMES)
    for prefix, head in _with_keys('model.at_heads', config.model.get('at_heads')):
        for key, value in head.items():
            if isinstance(value, dict) and 'initial' in value and value.get('by_epoch', True):
                collect(value, f'{prefix}.{key}', _WEIGHT_TIMES)
                _separate_times(options, f'{prefix}.{key}', after)
    return options


def _separate_times(options: dict, prefix: str, epochs: int) -> None:
    """Keep a weight schedule valid: ``begin`` before the last epoch, and strictly increasing ``milestones``."""
    if f'{prefix}.begin' in options:
        options[f'{prefix}.begin'] = min(options[f'{prefix}.begin'], epochs - 1)
    last, milestones = options.get(f'{prefix}.begin', 0), options.get(f'{prefix}.milestones', [])
    for index, milestone in enumerate(milestones):
        milestones[index] = last = max(milestone, last + 1)


def _with_keys(name: str, settings) -> list:
    """Pair the dicts of a setting, one or a list, with their keys for ``--cfg-options``."""
    if isinstance(settings, dict):
        return [(name, settings)]
    return [(f'{name}.{index}', each) for index, each in enumerate(settings or [])]
