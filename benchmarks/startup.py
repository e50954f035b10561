#!/usr/bin/env python
"""R7: from the start of Python to what is imported, and to the end of the first training iteration; mmat, mmpretrain.

    python benchmarks/startup.py

Imports: ``import mmat`` beside ``import mmpretrain``; ``from mmat import get_model`` beside mmpretrain's, which puts
off until a network is built what building one needs; and with a network built, each of its own zoo.

First iteration: tools/train.py beside the train.py that mmpretrain installs, each with ResNet-18 for CIFAR
(mmpretrain's) at batch 128, on the whole of CIFAR-10 as each reads it: mmat in memory without workers, mmpretrain with
the two workers of its config. All is in it that is imported, built, read, forked and computed up to there. mmpretrain's
look at the MD5 sums of the data is left out, in its favour: a copy that was packed anew does not have them. AT is
beside it, on its own: its teacher is loaded, and validated on 10,000 images first, which mmpretrain has nothing like.
Each measurement is a fresh process; they take turns.
"""
import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

from common import ROOT, add_arguments, alternate, describe_threads, finish, in_process, ratio, row, spread, start
from timed_training import run, save_untrained

# What a user of mmat runs, and of mmpretrain.
STATEMENTS = {
    'import mmat': 'import mmpretrain',
    'from mmat import get_model': 'from mmpretrain import get_model',
    "from mmat import get_model; get_model('wrn16-1_1xb128_cifar10')":
        "from mmpretrain import get_model; get_model('resnet18_8xb16_cifar10')",
}
OURS, FP32, AT, THEIRS = 'mmat', 'mmat, fp32', 'mmat, AT WRN-16-1 from WRN-16-2', 'mmpretrain'
# mmpretrain's network on this repository's data, schedule and runtime.
CONFIG = """_base_ = [{bases}]
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18, num_stages=4, out_indices=(3, ), style='pytorch'),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=512))
"""


def time_import(statement):
    """Seconds from before the process starts until it has run the statement."""
    begin = time.time()
    return in_process(f'{statement}; import time; print(time.time())', script='-c') - begin


def time_training(*arguments):
    """Seconds from before the process starts to the end of its first iteration."""
    begin = time.time()
    return in_process(*arguments) - begin


def train(name, data, batch):
    """When the first iteration ends."""
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
        told = run(1, str(tool), str(config), '--work-dir', folder, *(['--fp32'] if name == FP32 else []),
                   '--cfg-options', f'train_dataloader.batch_size={batch}',
                   f'train_dataloader.dataset.data_root={data}', f'val_dataloader.dataset.data_root={data}', *options)
    return told['ends'][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument('--data', default=str(ROOT / 'data' / 'cifar10'), help='the folder of CIFAR-10')
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
