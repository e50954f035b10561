"""The configs and their names, for the tests."""
import contextlib
import copy
import functools
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import PARAM_SCHEDULERS
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).parents[1]
CONFIGS = {path.stem: path for path in sorted(ROOT.glob('configs/[!_]*/*.py'))}
METAFILES = sorted(ROOT.glob('configs/*/metafile.yml'))
ENTRIES = {entry['Name']: entry for metafile in METAFILES for entry in load(metafile)['Models']}
FAMILY = {name: path.parent.name for name, path in CONFIGS.items()}
AT = dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=1000)
KD = dict(type='mmat.SoftTargetHead', T=4, alpha=0.9)
# What each method's heads are.
METHODS = {
    'at': [AT],
    'kd': [KD],
    'at-kd': [{**AT, 'weight': dict(type='linear', initial=1000, final=0, by_epoch=False)}, KD],
    'factt': [dict(type='mmat.FullActivationHead', pairs=AT['pairs'],
                   weight=dict(type='linear', initial=10, final=0, by_epoch=False))],
    # Table 2, and the ablation of layers.
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

# Training set, its classes, and the size of its images.
DATA = dict(cifar10=('CIFAR-10', 10, 32), cifar100=('CIFAR-100', 100, 32), digits=('Digits', 10, 16),
            cub=('CUB-200-2011', 200, 224), indoor67=('MIT Indoor-67', 67, 224), in1k=('ImageNet-1k', 1000, 224))

every_config = pytest.mark.parametrize('name', CONFIGS)


@functools.lru_cache
def read(name):
    return Config.fromfile(CONFIGS[name])


def config_of(name):
    # Of one's own: mmpretrain's classifier writes into the config it is built from.
    return copy.deepcopy(read(name))


def parts(name):
    """Student, method or None, its teacher or None, GPUs, batch size of one, dataset."""
    methods = '|'.join(sorted(METHODS, key=len, reverse=True))
    student, method, teacher, gpus, batch, data = re.fullmatch(
        rf'([^_]+)(?:_({methods})(?:-([^_]+))?)?_(\d+)xb(\d+)_(\w+)', name).groups()
    return student, method, teacher, int(gpus), int(batch), data


DISTILLATION = [name for name in CONFIGS if parts(name)[1]]


def student_name(name):
    student, _, _, gpus, batch, data = parts(name)
    return f'{student}_{gpus}xb{batch}_{data}'


def data_of(name):
    """Training set, its classes, and the size of the images."""
    data, classes, size = DATA[parts(name)[5]]
    # "Learn to Pay Attention" has its birds smaller.
    return data, classes, 80 if name == 'vgg-att2-concat-pc_1xb128_cub' else size


def learning_rates(config):
    """The rate of every epoch, of mmengine's schedulers by epoch."""
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
    """A config as dicts and lists, whatever kinds of these it has."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


class _NumbersOnCpu(TorchFunctionMode):
    """mmpretrain's ResNet reads numbers from a tensor while it is built, which has to be a real one."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {**(kwargs or {}), **(dict(device='cpu') if func is torch.linspace else {})}
        return func(*args, **kwargs)


@contextlib.contextmanager
def cheaply(name):
    """Shapes without values, where no value is needed: networks of 20 million weights take a second each."""
    with contextlib.ExitStack() as stack:
        if FAMILY[name] not in ('nin', 'wide_resnet'):
            stack.enter_context(torch.device('meta'))
            stack.enter_context(_NumbersOnCpu())
        yield
