#!/usr/bin/env python
"""Draw curves from the logs of runs, or print the time per iteration."""
import argparse

import numpy as np

from mmat.apis import command_line
from mmat.errors import UserError
from mmat.tooling.arguments import FIGURE_SUFFIXES, check_suffix, write_figure
from mmat.tooling.logs import label_runs, read_log
from mmat.visualization.curves import Panel, draw_panels


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest='task', required=True)
    plot = tasks.add_parser('plot_curve', help='draw scalars of one or more runs',
                            description='Draw scalars of runs, with a panel for each key and a line for each run.')
    plot.add_argument('--keys', nargs='+', default=['loss'], metavar='KEY',
                      help='logged scalars, such as loss, accuracy/top1, loss_at.backbone.group1. Default: loss')
    plot.add_argument('--out', required=True, metavar='FILE', help='figure to write: .png, .pdf or .svg')
    plot.add_argument('--legend', nargs='+', default=(), metavar='NAME',
                      help='names of the runs. Default: their folders')
    plot.add_argument('--title', default='', help='title of the figure')
    time = tasks.add_parser('cal_train_time', help='print the time per iteration',
                            description='Print the seconds per iteration of each run and of its slowest and fastest '
                            'epoch.')
    time.add_argument('--include-outliers', action='store_true',
                      help='include the first line of each epoch, which contains warm-up')
    for each in (plot, time):
        each.add_argument('logs', nargs='+', metavar='RUN',
                          help='work directory, whose logs are joined if the run was resumed, or a scalars.json')
    return parser.parse_args()


def main():
    args = parse_args()
    if args.task == 'plot_curve':
        plot_curve(args)
    else:
        cal_train_time(args)


def plot_curve(args):
    check_suffix(args.out, FIGURE_SUFFIXES, '--out')
    logs = [read_log(path) for path in args.logs]
    labels = label_runs(logs, args.legend)
    if len({log.by_epoch for log in logs}) > 1:
        raise UserError('Some runs log epochs, others only iterations. Draw them in separate figures.')
    panels = [Panel(key, {label: log.curve(key) for label, log in zip(labels, logs)}) for key in args.keys]
    title = args.title or (labels[0] if len(logs) == 1 else '')
    write_figure(draw_panels(panels, 'epoch' if logs[0].by_epoch else 'iteration', title), args.out)
    print(f'Wrote {args.out}.')


def cal_train_time(args):
    logs = [read_log(path) for path in args.logs]
    for label, log in zip(label_runs(logs), logs):
        times = log.train_times(args.include_outliers)
        if not times:
            raise UserError(f'Run {log.name} logs no training `time`.')
        mean = np.mean(list(times.values()))
        print(f'{label}: {mean:.4f} s per iteration')
        if log.by_epoch:
            slowest, fastest = max(times, key=times.get), min(times, key=times.get)
            print(f'  slowest epoch {slowest}: {times[slowest]:.4f} s, fastest epoch {fastest}: '
                  f'{times[fastest]:.4f} s, standard deviation over {len(times)} epochs: '
                  f'{np.std(list(times.values())):.4f} s')


if __name__ == '__main__':
    command_line(main)
