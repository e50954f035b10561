#!/usr/bin/env python
"""Tell which classes a network takes for which, on the test set of a config."""
import argparse

import matplotlib
from mmpretrain.evaluation import ConfusionMatrix

from mmat.apis import command_line
from mmat.models.targets import class_names
from mmat.tooling.arguments import PICTURES, add_config_arguments, check_suffix, read_config, write_figure, write_json
from mmat.tooling.predictions import measure_confusion, most_confused
from mmat.tooling.samples import build_dataset


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser, 'test_dataloader.dataset.indices=1000')
    parser.add_argument('source', metavar='checkpoint_or_predictions',
                        help='checkpoint file, URL, or work directory (its last checkpoint), which is tested now; or '
                        'predictions of tools/test.py --out FILE.pkl, of which only tensors and plain values are read')
    parser.add_argument('--out', metavar='FILE', help='write the matrix here, as .json')
    parser.add_argument('--show-path', metavar='FILE', help='draw it here: .png, .pdf or .svg')
    parser.add_argument('--include-values', action='store_true', help='write the numbers into the drawing')
    parser.add_argument('--cmap', default='viridis', help="matplotlib's name for its colours. Default: viridis")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.out:
        check_suffix(args.out, ['.json'], '--out')
    if args.show_path:
        check_suffix(args.show_path, PICTURES, '--show-path')
    if args.cmap not in matplotlib.colormaps:
        raise ValueError(f"--cmap must be a name of matplotlib's, such as viridis, magma or Blues, got {args.cmap!r}")
    config = read_config(args)
    matrix = measure_confusion(config, args.source)
    try:
        classes = class_names(build_dataset(config, 'test'))
    except FileNotFoundError:  # predictions need no images
        classes = None
    if not classes or len(classes) != len(matrix):
        classes = [str(label) for label in range(len(matrix))]
    print(f'{int(matrix.diagonal().sum())} of {int(matrix.sum())} images are right '
          f'({100 * int(matrix.diagonal().sum()) / int(matrix.sum()):.2f} %). Most often wrong:')
    for truth, guess, count in most_confused(matrix):
        print(f'  {classes[truth]} taken for {classes[guess]}: {count} of {int(matrix[truth].sum())}')
    if args.out:
        write_json(dict(classes=list(classes), true_by_predicted=matrix.tolist()), args.out)
    if args.show_path:
        matplotlib.use('Agg')  # no display
        figure = ConfusionMatrix.plot(matrix, args.include_values, args.cmap, classes, show=False)
        figure.set_size_inches(*[max(10, 0.18 * len(classes))] * 2)
        if len(classes) > 20:
            figure.axes[0].tick_params(axis='x', rotation=90)
        write_figure(figure, args.show_path)
        print(f'wrote {args.show_path}')


if __name__ == '__main__':
    command_line(main)
