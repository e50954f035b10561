#!/usr/bin/env python
"""R5: training several seeds in one process with shared batches and teacher, compared with separate trainings.

    python benchmarks/seeds.py [--repeats 5] [--seeds 5] [--iterations 30] [--fp32] [--data-root PATH] [--record]

Runs tools/train.py with --seeds and with a single --seed: WRN-16-1 with attention transfer from an untrained WRN-16-2,
batch 128, CIFAR-10, including loader, hooks and logging. The processes take turns. The first five iterations of each
seed are not counted.
"""
import argparse
import tempfile
from pathlib import Path

from common import add_arguments, alternate, describe_threads, finish, in_process, ratio, row, spread, start
from timed_training import save_untrained

ROOT = Path(__file__).resolve().parents[1]
CONFIG, TEACHER = 'wrn16-1_at-wrn16-2_1xb128_cifar10', 'wrn16-2_1xb128_cifar10'


def seconds_per_round(seeds: list, args, folder: Path, teacher: str) -> float:
    """Return the time of one iteration of all seeds."""
    which = ['--seed', seeds[0]] if len(seeds) == 1 else ['--seeds', *seeds]
    timed = in_process(
        args.iterations * len(seeds), str(ROOT / 'tools' / 'train.py'), CONFIG, '--work-dir',
        folder / f'{len(seeds)}_seeds', *which, '--batch-seed', 0, *(['--fp32'] if args.fp32 else []),
        '--cfg-options', f'model.teacher.checkpoint={teacher}', f'train_dataloader.dataset.data_root={args.data_root}',
        f'val_dataloader.dataset.data_root={args.data_root}', 'default_hooks.distillation.validate_teacher=False',
        'log_level=WARNING', threads=args.threads, script=str(ROOT / 'benchmarks' / 'timed_training.py'))
    ends = timed['ends'][5 * len(seeds):]
    return (ends[-1] - ends[0]) / (len(ends) - 1) * len(seeds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, repeats=5)
    parser.add_argument('--seeds', type=int, default=5, help='number of seeds; default: 5')
    parser.add_argument('--iterations', type=int, default=30, help='iterations of each seed; default: 30')
    parser.add_argument('--fp32', action='store_true', help='without the recommended CPU setting')
    parser.add_argument('--data-root', default='data/cifar10')
    args = parser.parse_args()
    start(args)
    with tempfile.TemporaryDirectory() as folder:
        teacher = save_untrained(TEACHER, str(Path(folder) / 'teacher.pth'))
        times = alternate({
            'one': lambda: seconds_per_round([0], args, Path(folder), teacher),
            'together': lambda: seconds_per_round(list(range(args.seeds)), args, Path(folder), teacher)}, args.repeats)
    setting = f'{"fp32" if args.fp32 else "bf16 autocast, channels_last, allocator"}, batch 128, {describe_threads()}'
    finish([
        row('R5', f'{args.seeds} seeds together / {args.seeds} x one', ratio(times, 'together', args.seeds * ['one']),
            goal='<= 0.65', repeats=args.repeats, setting=setting),
        row('R5', 'AT iteration of one seed alone', spread([1e3 * value for value in times['one']]), unit='ms',
            repeats=args.repeats, setting=setting),
    ], args)


if __name__ == '__main__':
    main()
