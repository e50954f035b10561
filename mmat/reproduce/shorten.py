"""A shorter training that keeps the shape of its schedules."""
from typing import Dict

from mmengine.config import Config

# What counts epochs in mmengine's parameter schedulers.
_SCHEDULER_TIMES = ('milestones', 'step_size', 'T_max', 'periods', 'begin', 'end', 'total_iters', 'total_steps')
# And in the weights of transfer heads; those without `end` end with the training.
_WEIGHT_TIMES = ('milestones', 'begin', 'end')


def shorten(config: Config, scale: float) -> Dict[str, object]:
    """The settings that make a training ``scale`` times as long: its epochs, and all that is counted in epochs.

    Learning rates drop, and weights of transfer heads decay, at the same share of the training as before, to the
    nearest epoch.

    Args:
        config (Config): A training by epochs. It is left as it is.
        scale (float): Factor of the number of epochs, such as 0.05; of at least one epoch.

    Returns:
        dict: Setting -> value, as ``--cfg-options`` takes them; empty for a scale of 1.

    Raises:
        ValueError: ``scale`` is not positive, or the training is not counted in epochs.
    """
    if not 0 < scale < float('inf'):
        raise ValueError(f'the epochs can be scaled by a positive number only, got {scale}')
    if not config.train_cfg.get('by_epoch', True) or 'max_epochs' not in config.train_cfg:
        raise ValueError(f'{config.filename} counts its training in iterations; only epochs can be scaled')
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
            # Of at least an epoch, as whoever reads it insists.
            options[f'{prefix}.end'] = max(options[f'{prefix}.end'], options.get(f'{prefix}.begin', 0) + 1)
        if str(settings.get('type')).lower().startswith('exponential'):
            options[f'{prefix}.gamma'] = settings['gamma']**(before / after)

    for prefix, scheduler in _numbered('param_scheduler', config.get('param_scheduler')):
        if scheduler.get('by_epoch', True):
            collect(scheduler, prefix, _SCHEDULER_TIMES)
    for prefix, head in _numbered('model.at_heads', config.model.get('at_heads')):
        for key, value in head.items():
            if isinstance(value, dict) and 'initial' in value and value.get('by_epoch', True):
                collect(value, f'{prefix}.{key}', _WEIGHT_TIMES)
                _keep_apart(options, f'{prefix}.{key}', after)
    return options


def _keep_apart(options: dict, prefix: str, epochs: int) -> None:
    """Where a head's weight changes: inside the training, and never twice at once, as it insists."""
    if f'{prefix}.begin' in options:
        options[f'{prefix}.begin'] = min(options[f'{prefix}.begin'], epochs - 1)
    last, milestones = options.get(f'{prefix}.begin', 0), options.get(f'{prefix}.milestones', [])
    for index, milestone in enumerate(milestones):
        milestones[index] = last = max(milestone, last + 1)


def _numbered(name: str, settings) -> list:
    if isinstance(settings, dict):
        return [(name, settings)]
    return [(f'{name}.{index}', each) for index, each in enumerate(settings or [])]
