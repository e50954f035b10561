#!/usr/bin/env python
"""Compute the confusion matrix of a network on a config's test set."""
import argparse

import matplotlib
from mmpretrain.evaluation import ConfusionMatrix

from mmat.apis import command_line
from mmat.errors import UserError, did_you_mean
from mmat.models.targets import class_names
from mmat.tooling import arguments
from mmat.tooling.predictions import compute_confusion_matrix, most_confused
from mmat.tooling.samples import build_dataset


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    arguments.add_config_arguments(parser, 'test_dataloader.dataset.indices=1000')
    parser.add_argument('source', metavar='checkpoint_or_predictions',
                        help='checkpoint file, URL or work directory (its last checkpoint), which is tested now; or '
                        'predictions from tools/test.py --out FILE.pkl; only tensors and plain values are read')
    parser.add_argument('--out', metavar='FILE', help='file for the matrix: .json')
    parser.add_argument('--show-path', metavar='FILE', help='file for the figure: .png, .pdf or .svg')
    parser.add_argument('--include-values', action='store_true', help='write the numbers into the figure')
    parser.add_argument('--cmap', default='viridis', help='matplotlib colormap of the figure. Default: viridis')
    return parser.parse_args()


def main():
    args = parse_args()
    if args.out:
        arguments.check_suffix(args.out, ['.json'], '--out')
    if args.show_path:
        arguments.check_suffix(args.show_path, arguments.FIGURE_SUFFIXES, '--show-path')
    if args.cmap not in matplotlib.colormaps:
        raise UserError(f'--cmap must be a matplotlib colormap, got {args.cmap!r}.'
                        f'{did_you_mean(args.cmap, matplotlib.colormaps)}')
    config = arguments.read_config(args)
    matrix = compute_confusion_matrix(config, args.source)
    try:
        classes = class_names(build_dataset(config, 'test'))
    except FileNotFoundError:  # predictions need no dataset
        classes = None
    if not classes or len(classes) != len(matrix):
        classes = [str(label) for label in range(len(matrix))]
    print(f'{int(matrix.diagonal().sum())} of {int(matrix.sum())} images are correct '
          f'({100 * int(matrix.diagonal().sum()) / int(matrix.sum()):.2f} %). Most frequent confusions:')
    for truth, predicted, count in most_confused(matrix):
        print(f'  {classes[truth]} predicted as {classes[predicted]}: {count} of {int(matrix[truth].sum())}')
    if args.out:
        arguments.write_json(dict(classes=list(classes), true_by_predicted=matrix.tolist()), args.out)
    if args.show_path:
        matplotlib.use('Agg')  # no display
        figure = ConfusionMatrix.plot(matrix, args.include_values, args.cmap, classes, show=False)
        figure.set_size_inches(*[max(10, 0.18 * len(classes))] * 2)
        if len(classes) > 20:
            figure.axes[0].tick_params(axis='x', rotation=90)
        arguments.write_figure(figure, args.show_path)
        print(f'Wrote {args.show_path}.')


if __name__ == '__main__':
    command_line(main)
