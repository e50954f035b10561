#!/usr/bin/env python
"""Draw a config's learning rate over the training, and the weights of transfer heads that change.

Steps the config's optimizer and schedulers without training. No teacher is needed.
"""
import argparse
from pathlib import Path

import numpy as np

from mmat.apis import command_line
from mmat.tooling.arguments import FIGURE_SUFFIXES, add_config_arguments, check_suffix, read_config, write_figure
from mmat.tooling.schedules import PARAMETERS, iterations_per_epoch, simulate_schedules
from mmat.visualization.curves import Panel, draw_panels


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser, 'train_cfg.max_epochs=10')
    parser.add_argument('--out', required=True, metavar='FILE', help='figure to write: .png, .pdf or .svg')
    parser.add_argument('-p', '--parameter', choices=PARAMETERS, default='lr',
                        help='optimizer parameter: learning rate, momentum or weight decay (wd). Default: lr')
    parser.add_argument('-d', '--dataset-size', type=int, metavar='N',
                        help='number of training images. Default: from the dataset')
    parser.add_argument('-n', '--ngpus', type=int, default=1, metavar='N',
                        help='number of processes that share the images of an epoch. Default: 1')
    parser.add_argument('--title', help="title of the figure. Default: the config's name")
    args = parser.parse_args()
    for name in ('dataset_size', 'ngpus'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')
    return args


def main():
    args = parse_args()
    check_suffix(args.out, FIGURE_SUFFIXES, '--out')
    config = read_config(args)
    length = iterations_per_epoch(config, args.dataset_size, args.ngpus)
    schedules = simulate_schedules(config, length, args.parameter)
    curves = [(PARAMETERS[args.parameter], schedules['optimizer'])]
    curves += [(f'weight of {name}', {name: values}) for name, values in schedules['heads'].items()]
    panels = [Panel(title, {label: step_points(values, length if schedules['by_epoch'] else 1)
                            for label, values in lines.items()}, stairs=True) for title, lines in curves]
    write_figure(draw_panels(panels, 'epoch' if schedules['by_epoch'] else 'iteration',
                             Path(args.config).stem if args.title is None else args.title), args.out)
    iterations = len(next(iter(schedules['optimizer'].values())))
    per_epoch = f', {length:,} per epoch' if schedules['by_epoch'] else ''
    print(f'Wrote {args.out}: {iterations:,} iterations{per_epoch}.')


def step_points(values, length):
    """Return the epochs at which a value changes with the new values, and the last value at the end."""
    change = np.flatnonzero(np.diff(values, prepend=np.nan))
    return np.append(change, len(values)) / length, np.append(values[change], values[-1])


if __name__ == '__main__':
    command_line(main)
