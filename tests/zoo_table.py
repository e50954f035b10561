"""The configs, their names and their published and measured numbers, for the tests."""
import contextlib
import copy
import functools
import re
from pathlib import Path
from statistics import median

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import PARAM_SCHEDULERS
from torch.overrides import TorchFunctionMode

from mmat.reproduce.recipe import name_of, read_recipe
from mmat.reproduce.results import read_csv
from mmat.reproduce.weights import read_index

ROOT = Path(__file__).parents[1]
CONFIGS = {path.stem: path for path in sorted(ROOT.glob('configs/[!_]*/*.py'))}
METAFILES = sorted(ROOT.glob('configs/*/metafile.yml'))
ENTRIES = {entry['Name']: entry for metafile in METAFILES for entry in load(metafile)['Models']}
FAMILY = {name: path.parent.name for name, path in CONFIGS.items()}
AT = dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=1000)
KD = dict(type='mmat.SoftTargetHead', T=4, alpha=0.9)
# The heads of each method.
METHODS = {
    'at': [AT],
    'kd': [KD],
    'at-kd': [{**AT, 'weight': dict(type='linear', initial=1000, final=0, by_epoch=False)}, KD],
    'factt': [dict(type='mmat.FullActivationHead', pairs=AT['pairs'],
                   weight=dict(type='linear', initial=10, final=0, by_epoch=False))],
    # Table 2 and the ablation of layers.
    'at-fsum1': [{**AT, 'p': 1}],
    'at-fsum4': [{**AT, 'p': 4}],
    'at-fmax1': [{**AT, 'p': 1, 'reduction': 'max'}],
    'at-group0': [{**AT, 'pairs': [(0, 0)]}],
    'at-group1': [{**AT, 'pairs': [(1, 1)]}],
    'at-group2': [{**AT, 'pairs': [(2, 2)]}],
    'at-group23': [{**AT, 'pairs': [(2, 2), (3, 3)]}],
    # Table 3.
    'gradat': [dict(type='mmat.GradientATHead', weight=0.1)],
    'minl2': [dict(type='mmat.GradientNormHead', weight=0.1)],
    'flipsym': [dict(type='mmat.FlipSymmetryHead', weight=0.1)],
}

# Training set, number of classes, image size.
DATA = dict(cifar10=('CIFAR-10', 10, 32), cifar100=('CIFAR-100', 100, 32), digits=('Digits', 10, 16),
            cub=('CUB-200-2011', 200, 224), indoor67=('MIT Indoor-67', 67, 224), in1k=('ImageNet-1k', 1000, 224))

every_config = pytest.mark.parametrize('name', CONFIGS)


@functools.lru_cache
def read(name):
    return Config.fromfile(CONFIGS[name])


def config_of(name):
    # A copy, because mmpretrain's classifier modifies the config it is built from.
    return copy.deepcopy(read(name))


def parts(name):
    """Return student, method or None, teacher or None, GPUs, batch size per GPU, dataset."""
    methods = '|'.join(sorted(METHODS, key=len, reverse=True))
    student, method, teacher, gpus, batch, data = re.fullmatch(
        rf'([^_]+)(?:_({methods})(?:-([^_]+))?)?_(\d+)xb(\d+)_(\w+)', name).groups()
    return student, method, teacher, int(gpus), int(batch), data


DISTILLATION = [name for name in CONFIGS if parts(name)[1]]


def student_name(name):
    student, _, _, gpus, batch, data = parts(name)
    return f'{student}_{gpus}xb{batch}_{data}'


def data_of(name):
    """Return training set, number of classes, image size."""
    data, classes, size = DATA[parts(name)[5]]
    # "Learn to Pay Attention" resizes the birds to 80 pixels.
    return data, classes, 80 if name == 'vgg-att2-concat-pc_1xb128_cub' else size


def learning_rates(config):
    """Return the learning rate of every epoch, from mmengine's schedulers."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=config.optim_wrapper.optimizer.lr)
    schedulers = config.param_scheduler if isinstance(config.param_scheduler, list) else [config.param_scheduler]
    schedulers = [PARAM_SCHEDULERS.build({**scheduler, 'optimizer': optimizer}) for scheduler in schedulers]
    assert all(scheduler.by_epoch for scheduler in schedulers)
    rates = []
    for _ in range(config.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


def plain(value):
    """Convert a config to dicts and lists."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


# Numbers of the READMEs' tables

METRICS = ('accuracy/top1', 'accuracy/top5')
# (error or accuracy, config) -> published number in percent, for numbers that are in no recipe.
PUBLISHED = {
    ('error', 'vgg_1xb128_cifar10'): 7.77,
    ('error', 'vgg-att-dp_1xb128_cifar10'): 6.14,
    ('error', 'vgg-att-pc_1xb128_cifar10'): 5.67,
    ('error', 'vgg-att2-indep-dp_1xb128_cifar10'): 5.91,
    ('error', 'vgg-att2-concat-dp_1xb128_cifar10'): 5.86,
    ('error', 'vgg-att2-indep-pc_1xb128_cifar10'): 5.36,
    ('error', 'vgg-att2-concat-pc_1xb128_cifar10'): 5.23,
    ('error', 'vgg-att3-concat-pc_1xb128_cifar10'): 6.34,
    ('error', 'rn164_1xb64_cifar10'): 6.03,
    ('error', 'affine-resnet18_8xb32_in1k'): (29.44, 10.12),
}
# Config -> measured error in percent and epochs, for runs that are in no file of results.
MEASURED = {
    'vgg-reimpl-quarter-att3-concat-pc_1xb128_cifar10': (17.54, '6 of 900'),
    'vgg-reimpl-quarter-att3-concat-pc-after_1xb128_cifar10': (19.75, '6 of 900'),
    'wrn16-1_at-vgg-reimpl-quarter-att3-concat-pc_1xb128_cifar10': (16.28, '10 of 200'),
}


@functools.lru_cache
def _recipe_numbers():
    numbers = {}
    for path in sorted(ROOT.glob('recipes/*.py')):
        recipe = read_recipe(path)
        for cell in recipe.cells:
            if cell.published is not None:
                key = recipe.measure, name_of(cell.config), cell.metric
                assert numbers.setdefault(key, cell.published) == cell.published, key
    return numbers


def published(name, measure, count=1):
    """Return a config's published numbers in percent.

    Args:
        name (str): Config name.
        measure (str): 'error' or 'accuracy'.
        count (int): 1 for top-1, 2 for top-1 and top-5.

    Returns:
        tuple[float] | None: None if none are known.
    """
    if (measure, name) in PUBLISHED:
        numbers = PUBLISHED[measure, name]
        return numbers if isinstance(numbers, tuple) else (numbers, )
    entry = ENTRIES[name]
    if measure == 'accuracy' and '://' in entry.get('Weights', ''):
        metrics = entry['Results'][0]['Metrics']
        return tuple(metrics[f'Top {k} Accuracy'] for k in (1, 5)[:count])
    numbers = tuple(_recipe_numbers().get((measure, name, metric)) for metric in METRICS[:count])
    return None if None in numbers else numbers


def measured(name, measure, count=1):
    """Return a config's measured numbers in percent, medians of the seeds, and the epochs if shortened, '10 of 200'.

    Numbers of published weights come from the file of results that the checkpoint index names. The arguments are those
    of :func:`published`; None if nothing was measured.
    """
    entry = ENTRIES[name]
    weights, epochs = entry.get('Weights', ''), str(entry['Metadata'].get('Epochs', ''))
    if name in MEASURED:
        error, epochs = MEASURED[name]
        errors = [error]
    elif 'Results' not in entry or '://' in weights:
        return None
    elif weights:
        table, = (row['results'] for row in read_index(ROOT) if row['file'] == Path(weights).name)
        rows = [row for row in read_csv(ROOT / 'results' / f'{table}.csv') if row['config'] == name]
        values = [median({row['seed']: row['value'] for row in rows if row['metric'] == metric}.values())
                  for metric in METRICS[:count]]
        errors = [value if rows[0]['measure'] == 'error' else 100 - value for value in values]
    else:
        errors = [100 - entry['Results'][0]['Metrics']['Top 1 Accuracy']]
    values = tuple(error if measure == 'error' else 100 - error for error in errors)
    return values, epochs if ' of ' in epochs else ''


class _NumbersOnCpu(TorchFunctionMode):
    """mmpretrain's ResNet reads numbers from a tensor while it is built, so that tensor needs values."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {**(kwargs or {}), **(dict(device='cpu') if func is torch.linspace else {})}
        return func(*args, **kwargs)


@contextlib.contextmanager
def cheaply(name):
    """Build large networks on the meta device: initializing 20 million weights takes a second."""
    with contextlib.ExitStack() as stack:
        if FAMILY[name] not in ('nin', 'wide_resnet'):
            stack.enter_context(torch.device('meta'))
            stack.enter_context(_NumbersOnCpu())
        yield
