#!/usr/bin/env python
"""R7: time of imports, and from start to the end of the first training iteration, of mmat and mmpretrain.

    python benchmarks/startup.py

Imports: ``import mmat`` and ``import mmpretrain``; ``from mmat import get_model`` and mmpretrain's, which delays
imports until a network is built; and both followed by building a network of the own zoo.

First iteration: tools/train.py and mmpretrain's train.py, both with mmpretrain's ResNet-18 for CIFAR at batch 128 on
CIFAR-10, in memory without workers for mmat, with the two workers of its config for mmpretrain. The time includes all
imports, building, reading, forking and computing. mmpretrain's MD5 check of the data is skipped, in its favour, because
a repacked copy does not pass it. Attention transfer is measured separately: it first loads the teacher and validates it
on 10,000 images, which has no counterpart in mmpretrain. Each measurement runs in a new process; they take turns.
"""
import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

from common import ROOT, add_arguments, alternate, describe_threads, finish, in_process, ratio, row, spread, start
from timed_training import run, save_untrained

# Statement of mmat -> counterpart of mmpretrain.
STATEMENTS = {
    'import mmat': 'import mmpretrain',
    'from mmat import get_model': 'from mmpretrain import get_model',
    "from mmat import get_model; get_model('wrn16-1_1xb128_cifar10')":
        "from mmpretrain import get_model; get_model('resnet18_8xb16_cifar10')",
}
OURS, FP32, AT, THEIRS = 'mmat', 'mmat, fp32', 'mmat, AT WRN-16-1 from WRN-16-2', 'mmpretrain'
# mmpretrain's network with mmat's data, schedule and runtime.
CONFIG = """_base_ = [{bases}]
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18, num_stages=4, out_indices=(3, ), style='pytorch'),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=512))
"""


def time_import(statement):
    """Return the seconds from the start of a process to the end of a statement."""
    begin = time.time()
    return in_process(f'{statement}; import time; print(time.time())', script='-c') - begin


def time_training(*arguments):
    """Return the seconds from the start of a process to the end of its first iteration."""
    begin = time.time()
    return in_process(*arguments) - begin


def train(name, data, batch):
    """Train one iteration and return the time of its end."""
    with tempfile.TemporaryDirectory() as folder:
        if name == THEIRS:
            from mmpretrain.datasets import cifar
            cifar.CIFAR10._check_integrity = lambda self: True
            installed = Path(cifar.__file__).parents[1] / '.mim'
            tool, options = installed / 'tools' / 'train.py', []
            config = installed / 'configs' / 'resnet' / 'resnet18_8xb16_cifar10.py'
        else:
            tool = ROOT / 'tools' / 'train.py'
            options = []
            if name == AT:
                config = 'wrn16-1_at-wrn16-2_1xb128_cifar10'
                teacher = save_untrained('wrn16-2_1xb128_cifar10', f'{folder}/teacher.pth')
                options = [f'model.teacher.checkpoint={teacher}']
            else:
                config = Path(folder, 'resnet18.py')
                bases = ('datasets/cifar10_bs128.py', 'schedules/cifar10_200e.py', 'default_runtime.py')
                config.write_text(CONFIG.format(
                    bases=', '.join(repr(str(ROOT / 'configs' / '_base_' / base)) for base in bases)))
        timed = run(1, str(tool), str(config), '--work-dir', folder, *(['--fp32'] if name == FP32 else []),
                    '--cfg-options', f'train_dataloader.batch_size={batch}',
                    f'train_dataloader.dataset.data_root={data}', f'val_dataloader.dataset.data_root={data}', *options)
    return timed['ends'][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument('--data', default=str(ROOT / 'data' / 'cifar10'), help='folder of CIFAR-10')
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args()
    data = str(Path(args.data).resolve())
    if args.one:
        print(json.dumps(train(args.one, data, args.batch)))
        return
    start(args)
    arguments = ['--data', data, '--batch', args.batch, '--one']
    calls = {statement: partial(time_import, statement) for pair in STATEMENTS.items() for statement in pair}
    calls.update({name: partial(time_training, *arguments, name) for name in (OURS, FP32, AT, THEIRS)})
    times = alternate(calls, args.repeats)
    named = dict(figure='R7', repeats=args.repeats)
    rows = [row(what=statement, measured=spread(times[statement]), unit='s', **named)
            for pair in STATEMENTS.items() for statement in pair]
    rows += [row(what=f'{ours} / {theirs}', measured=ratio(times, ours, theirs), goal='<= 1.1', **named)
             for ours, theirs in STATEMENTS.items()]
    setting = f'batch {args.batch}, {describe_threads()}'
    rows += [row(what='start to first iteration', measured=spread(times[name]), unit='s', setting=f'{name}, {setting}',
                 **named) for name in (THEIRS, OURS, FP32, AT)]
    rows += [row(what="start to first iteration / mmpretrain's", measured=ratio(times, name, THEIRS), goal='<= 1.1',
                 setting=f'{name}, {setting}', **named) for name in (OURS, FP32)]
    finish(rows, args)


if __name__ == '__main__':
    main()
