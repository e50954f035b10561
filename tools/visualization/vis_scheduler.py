#!/usr/bin/env python
"""Draw a config's learning rate over the training, and the weights of its transfer heads where these change.

The optimizer and schedulers are the real ones, stepped without images. Nothing is trained; no teacher is needed.
"""
import argparse
from pathlib import Path

import numpy as np

from mmat.apis import command_line
from mmat.tooling.arguments import PICTURES, add_config_arguments, check_suffix, read_config, write_figure
from mmat.tooling.schedules import PARAMETERS, iterations_per_epoch, simulate_schedules
from mmat.visualization.curves import Panel, draw_panels


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser, 'train_cfg.max_epochs=10')
    parser.add_argument('--out', required=True, metavar='FILE', help='the figure to write: .png, .pdf or .svg')
    parser.add_argument('-p', '--parameter', choices=PARAMETERS, default='lr',
                        help="the optimizer's: learning rate, momentum or weight decay (wd). Default: lr")
    parser.add_argument('-d', '--dataset-size', type=int, metavar='N',
                        help='images in the training set; default: it is read')
    parser.add_argument('-n', '--ngpus', type=int, default=1, metavar='N',
                        help='processes that share the images of an epoch. Default: 1')
    parser.add_argument('--title', help="of the figure; default: the config's name")
    args = parser.parse_args()
    for name in ('dataset_size', 'ngpus'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')
    return args


def main():
    args = parse_args()
    check_suffix(args.out, PICTURES, '--out')
    config = read_config(args)
    length = iterations_per_epoch(config, args.dataset_size, args.ngpus)
    found = simulate_schedules(config, length, args.parameter)
    curves = [(PARAMETERS[args.parameter], found['optimizer'])]
    curves += [(f'weight of {name}', {name: values}) for name, values in found['heads'].items()]
    panels = [Panel(title, {label: corners(values, length if found['by_epoch'] else 1)
                            for label, values in lines.items()}, stairs=True) for title, lines in curves]
    write_figure(draw_panels(panels, 'epoch' if found['by_epoch'] else 'iteration',
                             Path(args.config).stem if args.title is None else args.title), args.out)
    iterations = len(next(iter(found['optimizer'].values())))
    print(f'wrote {args.out}: {iterations:,} iterations' + (f', {length:,} an epoch' if found['by_epoch'] else ''))


def corners(values, length):
    """Where a value sets in, in epochs, and which; the last is held until the end."""
    change = np.flatnonzero(np.diff(values, prepend=np.nan))
    return np.append(change, len(values)) / length, np.append(values[change], values[-1])


if __name__ == '__main__':
    command_line(main)
