#!/usr/bin/env python
"""R6: scaling of attention transfer training with processes, batch size and depth, on the CPU.

    python benchmarks/scale.py [--only processes]

Processes: tools/train.py under torchrun, two processes of one thread each that share a batch through gloo, against one
process of one thread. The cores share caches and memory, so the upper bound is the speed of two independent
simultaneous trainings, which is also measured.

Batch and depth: the step of WRN-d-1 with attention transfer from WRN-16-2 on random images, in the recommended setting,
and the largest growth of the process's memory since before the first step. Each point runs in a new process; they take
turns. A straight line is fitted to the medians by least squares of measured / line - 1. The row reports the largest
measured / line, with the smallest and largest of all points in place of the quartiles.
"""
import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from threading import Lock

from common import (
    ROOT,
    add_arguments,
    alternate,
    describe_threads,
    finish,
    in_process,
    quiet,
    ratio,
    row,
    spread,
    start,
)
from timed_training import images_per_second, save_untrained

CONFIG = 'wrn16-1_at-wrn16-2_1xb128_cifar10'
TEACHER = 'wrn16-2_1xb128_cifar10'
_building = Lock()
BATCHES, DEPTHS = [32, 64, 128, 256, 512, 1024], [16, 22, 28, 40, 64, 100]


def train(args, batch, processes=1):
    """Return images/s of tools/train.py, with one thread and ``batch`` images per process."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        # Reading a config parses Python, which is not thread-safe in Python 3.11.
        with _building:
            teacher = save_untrained(TEACHER, f'{folder}/teacher.pth')
        command = [
            here / 'timed_training.py', args.iterations, ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', folder,
            '--launcher', 'none' if processes == 1 else 'pytorch', '--cfg-options',
            f'model.teacher.checkpoint={teacher}',
            f'train_dataloader.batch_size={batch}', f'train_dataloader.dataset.data_root={args.data}',
            f'val_dataloader.dataset.data_root={args.data}', 'default_hooks.distillation.validate_teacher=False']
        if processes > 1:
            command = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}', *command]
        return images_per_second(in_process(*command[1:], script=str(command[0]), threads=1), args.skip)


def train_two(args, batch):
    """Return images/s of two simultaneous trainings together."""
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda _: train(args, batch), range(2)))


def measure_processes(args):
    """Yield the rows of the scaling with processes."""
    speeds = alternate({
        'one 64': partial(train, args, 64), 'one 128': partial(train, args, 128),
        'two 64': partial(train, args, 64, processes=2), 'apart 64': partial(train_two, args, 64)}, args.repeats)
    setting = 'recommended, 1 thread a process'
    named = dict(figure='R6', repeats=args.repeats, setting=setting)
    yield row(what='images/s, 1 process x 64', measured=spread(speeds['one 64']), unit='images/s', **named)
    yield row(what='images/s, 2 processes x 64', measured=spread(speeds['two 64']), unit='images/s', **named)
    yield row(what='images/s, 2 processes x 64 / 2 x (1 process x 64)',
              measured=ratio(speeds, 'two 64', 2 * ['one 64']), **named)
    yield row(what='images/s, 2 trainings at a time / 2 x (1 process x 64)',
              measured=ratio(speeds, 'apart 64', 2 * ['one 64']), **named)
    yield row(what='images/s, 2 processes x 64 / 2 trainings at a time',
              measured=ratio(speeds, 'two 64', 'apart 64'), **named)
    yield row(what='images/s, 2 processes x 64 / 1 process x 128',
              measured=ratio(speeds, 'two 64', 'one 128'), **named)


@quiet()
def measure_step(depth, batch, steps):
    """Return the median time of a step in s, and the memory growth of the process in MiB."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import OPTIM_WRAPPERS

    from mmat.apis.launch import apply_cpu_setting
    from mmat.datasets.in_memory import BatchedSamples
    from mmat.models import build_network
    from mmat.registry import MODELS
    from mmat.utils.zoo import find_config
    config = Config.fromfile(find_config(CONFIG))
    apply_cpu_setting(config)
    config.model.student.backbone.depth = depth
    model = MODELS.build({**config.model.to_dict(), 'teacher': build_network(TEACHER)}).train()
    options = {key: value for key, value in config.optim_wrapper.optimizer.items() if key != 'type'}
    optimizer = OPTIM_WRAPPERS.build(
        {'type': 'OptimWrapper', **config.optim_wrapper, 'optimizer': torch.optim.SGD(model.parameters(), **options)})
    model.set_progress(0, 0, 200, 200 * 391)
    model.prepare_teacher()
    data = dict(inputs=torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8),
                data_samples=BatchedSamples(torch.randint(0, 10, (batch, ))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        model.train_step(data, optimizer)
        times.append(time.perf_counter() - begin)
    return median(times[1:]), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def ratios_to_line(x, y):
    """Return measured / line at each point for a straight line fitted by least squares of measured / line - 1.

    The fit minimises line / measured - 1, which is linear in the coefficients and equal to first order.
    """
    import numpy as np
    x, y = np.asarray(x, float), np.asarray(y, float)
    columns = np.stack([1 / y, x / y], 1)
    coefficients = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)[0]
    return y / (coefficients[0] + coefficients[1] * x)


def measure_growth(args, what, points):
    """Yield the rows of a series of points (depth, batch) along the axis ``what``."""
    measured = alternate({point: partial(in_process, '--one', *point, '--steps', args.steps) for point in points},
                         args.repeats)
    axis = 0 if what == 'depth' else 1
    fixed = f'batch {points[0][1]}' if what == 'depth' else f'WRN-{points[0][0]}-1'
    named = dict(figure='R6', repeats=args.repeats)
    for index, (name, unit, scale) in enumerate([('step', 'ms', 1e3), ('peak memory', 'MiB', 1)]):
        values = {point: [each[index] * scale for each in measured[point]] for point in points}
        for point in points:
            yield row(what=f'{name}, {what} {point[axis]}', measured=spread(values[point]), unit=unit,
                      setting=f'recommended, {fixed}, {describe_threads()}', **named)
        if len(points) > 2:
            off = ratios_to_line([point[axis] for point in points], [median(values[point]) for point in points])
            yield row(what=f'{name} / straight line in {what}, where most above (range: all)',
                      measured=(off.max(), off.min(), off.max()),
                      setting=f'recommended, {fixed}, {what} {points[0][axis]} to {points[-1][axis]}, '
                              f'{describe_threads()}', **named)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument('--only', choices=['processes', 'batch', 'depth'])
    parser.add_argument('--data', default=str(ROOT / 'data' / 'cifar10'), help='folder of CIFAR-10')
    parser.add_argument('--iterations', type=int, default=60, help='iterations of a training; default: 60')
    parser.add_argument('--skip', type=int, default=10, help='warm-up iterations, not counted; default: 10')
    parser.add_argument('--steps', type=int, default=6, help='steps for each batch size or depth; default: 6')
    parser.add_argument('--batches', type=int, nargs='+', default=BATCHES, help='batch sizes, with WRN-16-1')
    parser.add_argument('--depths', type=int, nargs='+', default=DEPTHS, help='depths, with batch size --batch')
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--one', type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure_step(*args.one, args.steps)))
        return
    args.data = str(Path(args.data).resolve())
    start(args)
    rows = []
    if args.only in (None, 'processes'):
        rows += measure_processes(args)
    if args.only in (None, 'batch'):
        rows += measure_growth(args, 'batch', [(16, batch) for batch in args.batches])
    if args.only in (None, 'depth'):
        rows += measure_growth(args, 'depth', [(depth, args.batch) for depth in args.depths])
    finish(rows, args)


if __name__ == '__main__':
    main()
