#!/usr/bin/env python
"""Draw curves from the logs of runs, or tell how long their iterations took."""
import argparse

import numpy as np

from mmat.apis import command_line
from mmat.tooling.arguments import PICTURES, check_suffix, write_figure
from mmat.tooling.logs import label_runs, read_log
from mmat.visualization.curves import Panel, draw_panels


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest='task', required=True)
    plot = tasks.add_parser('plot_curve', help='draw scalars of one or more runs',
                            description='Draw scalars of one or more runs: a panel for each key, a line for each run.')
    plot.add_argument('--keys', nargs='+', default=['loss'], metavar='KEY',
                      help='such as loss, accuracy/top1, loss_at.backbone.group1; default: loss. A misspelt one is '
                      'told the closest')
    plot.add_argument('--out', required=True, metavar='FILE', help='the figure to write: .png, .pdf or .svg')
    plot.add_argument('--legend', nargs='+', default=(), metavar='NAME',
                      help='what to call the runs; default: as their folders are called')
    plot.add_argument('--title', default='', help='of the figure')
    time = tasks.add_parser('cal_train_time', help='seconds of an iteration',
                            description='Tell how many seconds an iteration of each run took, by epoch.')
    time.add_argument('--include-outliers', action='store_true',
                      help='count the first line of each epoch too, which warms up')
    for each in (plot, time):
        each.add_argument('logs', nargs='+', metavar='RUN',
                          help='work directory (the logs of a resumed run are joined), or a scalars.json')
    return parser.parse_args()


def main():
    args = parse_args()
    if args.task == 'plot_curve':
        plot_curve(args)
    else:
        cal_train_time(args)


def plot_curve(args):
    check_suffix(args.out, PICTURES, '--out')
    logs = [read_log(path) for path in args.logs]
    labels = label_runs(logs, args.legend)
    if len({log.by_epoch for log in logs}) > 1:
        raise ValueError('some of these runs count epochs, others only iterations: draw them in figures of their own')
    panels = [Panel(key, {label: log.curve(key) for label, log in zip(labels, logs)}) for key in args.keys]
    title = args.title or (labels[0] if len(logs) == 1 else '')
    write_figure(draw_panels(panels, 'epoch' if logs[0].by_epoch else 'iteration', title), args.out)
    print(f'wrote {args.out}')


def cal_train_time(args):
    logs = [read_log(path) for path in args.logs]
    for label, log in zip(label_runs(logs), logs):
        times = log.train_times(args.include_outliers)
        if not times:
            raise ValueError(f'{log.name} logs no `time` of training')
        mean = np.mean(list(times.values()))
        print(f'{label}: {mean:.4f} s an iteration')
        if log.by_epoch:
            slowest, fastest = max(times, key=times.get), min(times, key=times.get)
            print(f'  slowest epoch {slowest}: {times[slowest]:.4f} s, fastest epoch {fastest}: '
                  f'{times[fastest]:.4f} s, standard deviation over {len(times)} epochs: '
                  f'{np.std(list(times.values())):.4f} s')


if __name__ == '__main__':
    command_line(main)
