#!/usr/bin/env python
"""R1: overhead of mmat's training iteration over the same step in plain PyTorch, and its growth in long trainings.

    python benchmarks/framework.py [--repeats 20] [--steps 5] [--fp32] [--data-root data/cifar10] [--flat] [--record]

The iteration is the full iteration of tools/train.py: loader, augmentation, distiller, optimizer, schedulers, hooks and
logging every 100 iterations (WRN-16-1 with attention transfer from WRN-16-2, batch 128, CIFAR-10). Plain PyTorch is
benchmarks/bare.py with mmat's formulas on a prepared batch, so that the difference is the framework. Blocks of
``--steps`` iterations of both alternate within one training. --flat instead runs 200,000 iterations of a network with
one weight through the same hooks, and compares the last 1000 with the 1000 after the first 100, and the checkpoints.
"""
import argparse
import tempfile
import time
from pathlib import Path

import torch
from bare import Steps
from common import add_arguments, describe_threads, finish, ratio, row, spread, start, synchronize
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from timed_training import save_untrained

from mmat.apis.launch import build_runner
from mmat.datasets import InMemoryDataset
from mmat.models import build_network
from mmat.registry import DATASETS, MODELS
from mmat.utils.zoo import find_config

CONFIG, TEACHER = 'wrn16-1_at-wrn16-2_1xb128_cifar10', 'wrn16-2_1xb128_cifar10'


class Alternate(Hook):
    """Time blocks of iterations, each followed by a block of each of ``others``."""

    priority = 'LOWEST'

    def __init__(self, others: dict, steps: int, repeats: int):
        self.others, self.steps, self.repeats = others, steps, repeats
        self.times = {name: [] for name in ('mmat', *others)}

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if (batch_idx + 1) % self.steps:
            return
        synchronize()
        # The first block of each is a warm-up.
        if batch_idx >= self.steps:
            self.times['mmat'].append((time.perf_counter() - self.begin) / self.steps)
        for name, call in self.others.items():
            begin = time.perf_counter()
            for _ in range(self.steps):
                call()
            synchronize()
            if batch_idx >= self.steps:
                self.times[name].append((time.perf_counter() - begin) / self.steps)
        if len(self.times['mmat']) == self.repeats:
            raise StopIteration
        self.begin = time.perf_counter()


def measure_overhead(args, folder: Path) -> list:
    checkpoint, teacher = save_untrained(TEACHER, str(folder / 'teacher.pth')), build_network(TEACHER)
    config = Config.fromfile(find_config(CONFIG))
    config.merge_from_dict({
        'work_dir': str(folder), 'launcher': 'none', 'randomness.seed': 0,
        'model.teacher.checkpoint': checkpoint, 'default_hooks.distillation.validate_teacher': False,
        'train_dataloader.dataset.data_root': args.data_root, 'val_dataloader.dataset.data_root': args.data_root,
        'log_level': 'WARNING', 'vis_backends': [dict(type='LocalVisBackend')],
        'visualizer.vis_backends': [dict(type='LocalVisBackend')]})
    runner = build_runner(config, fp32=args.fp32)
    preprocessor = runner.model.data_preprocessor
    batch = preprocessor(runner.train_loop.dataloader.dataset.__getitems__(range(128)), training=True)
    student = build_network(CONFIG)
    student.init_weights()
    steps = Steps(student.to(batch['inputs'].device), teacher.to(batch['inputs'].device), batch['inputs'],
                  batch['data_samples'].gt_label, bf16=not args.fp32)
    hook = Alternate(dict(lean=steps.lean_step), args.steps, args.repeats)
    runner.register_hook(hook)
    try:
        runner.train()
    except StopIteration:
        pass
    setting = f'{"fp32" if args.fp32 else "bf16 autocast, channels_last, allocator"}, batch 128, {describe_threads()}'
    goal = '<= 1.1' if torch.cuda.is_available() else '<= 1.03'
    return [
        row('R1', 'training iteration / plain PyTorch, same formulas', ratio(hook.times, 'mmat', 'lean'), goal=goal,
            repeats=args.repeats, setting=setting),
        row('R1', 'training iteration', spread([1e3 * value for value in hook.times['mmat']]), unit='ms',
            repeats=args.repeats, setting=setting)
    ]


@MODELS.register_module()
class OneWeight(BaseModel):
    """A network with one weight and as many logged values as a distillation run."""

    def __init__(self, data_preprocessor=None):
        super().__init__()  # the preprocessor of the config expects other images
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs, data_samples=None, mode='loss'):
        return {'loss_task': self.weight**2, **{f'value{i}': self.weight.detach() for i in range(7)}}


@DATASETS.register_module()
class Pixels(InMemoryDataset):

    def __init__(self, count: int):
        super().__init__(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64), ['one'])


class Clock(Hook):
    priority = 'LOWEST'

    def __init__(self):
        self.times = []

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.times.append(time.perf_counter())


def measure_growth(args, folder: Path) -> list:
    config = Config.fromfile(find_config(CONFIG))
    config.merge_from_dict(dict(work_dir=str(folder), launcher='none', log_level='WARNING'))
    config.model = dict(type='mmat.OneWeight')
    epochs = 10
    config.train_dataloader.batch_size = 1
    config.train_dataloader.dataset = dict(type='mmat.Pixels', count=args.iterations // epochs)
    config.train_cfg = dict(by_epoch=True, max_epochs=epochs)
    config.param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[epochs], gamma=0.2)
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.test_cfg = config.test_dataloader = config.test_evaluator = None
    config.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    config.default_hooks.checkpoint.max_keep_ckpts = -1
    if args.mmengine:
        config.default_hooks.runtime_info = dict(type='RuntimeInfoHook')
        config.default_hooks.checkpoint.type = 'CheckpointHook'
    runner = build_runner(config, fp32=True)
    clock = Clock()
    runner.register_hook(clock)
    runner.train()
    gaps = [1e3 * (after - before) for before, after in zip(clock.times, clock.times[1:])]
    # Skip the start of the epoch, which shuffles and saves.
    first, last = gaps[100:1100], gaps[-1000:]
    sizes = [(folder / f'epoch_{epoch}.pth').stat().st_size for epoch in (1, epochs)]
    (first_value, *first_quartiles), (last_value, *last_quartiles) = spread(first), spread(last)
    growth = [last_value / first_value, *(b / a for a, b in zip(first_quartiles, last_quartiles))]
    growth = [growth[0], min(growth), max(growth)]
    setting = f'{args.iterations:,} iterations, 9 logged values' + (", mmengine's own hooks" if args.mmengine else '')
    goal = '' if args.mmengine else '<= 1.05'
    return [
        row('R1', 'bookkeeping, last 1000 iterations / first', growth, goal=goal, setting=setting, repeats=1000),
        row('R1', 'bookkeeping at the beginning', spread(first), unit='ms', setting=setting, repeats=1000),
        row('R1', 'checkpoint at the end / after a tenth', [sizes[1] / sizes[0]] * 3,
            goal='' if args.mmengine else '<= 1.001', setting=setting),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, repeats=20)
    parser.add_argument('--steps', type=int, default=5, help='iterations per block; default: 5')
    parser.add_argument('--fp32', action='store_true', help='without the recommended CPU setting')
    parser.add_argument('--data-root', default='data/cifar10')
    parser.add_argument('--flat', action='store_true', help='measure growth instead')
    parser.add_argument('--iterations', type=int, default=200000, help='number of iterations with --flat')
    parser.add_argument('--mmengine', action='store_true', help="with --flat: use mmengine's hooks, for comparison")
    args = parser.parse_args()
    start(args)
    with tempfile.TemporaryDirectory() as folder:
        finish((measure_growth if args.flat else measure_overhead)(args, Path(folder)), args)


if __name__ == '__main__':
    main()
