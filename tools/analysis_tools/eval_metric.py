#!/usr/bin/env python
"""Compute metrics from the predictions of tools/test.py --out FILE.pkl, without running the network."""
import argparse

from mmengine.config import DictAction
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, init_default_scope
from mmpretrain.evaluation import Accuracy, ConfusionMatrix, SingleLabelMetric

from mmat.apis import command_line
from mmat.errors import UserError
from mmat.tooling.predictions import check_single_label, read_predictions

SINGLE_LABEL = (Accuracy, ConfusionMatrix, SingleLabelMetric)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('predictions', help='.pkl file; only tensors and plain values are read from it')
    parser.add_argument('--metric', nargs='+', action='append', required=True, metavar='KEY=VALUE', dest='metrics',
                        help='metric of mmpretrain and its options, such as --metric type=Accuracy topk=1,5; may be '
                        'repeated')
    return parser.parse_args()


def main():
    args = parse_args()
    init_default_scope('mmpretrain')
    metrics = []
    for words in args.metrics:
        options = dict(word.split('=', 1) for word in words if '=' in word)
        if 'type' not in options or not all('=' in word for word in words):
            raise UserError('--metric needs KEY=VALUE pairs with `type`, such as --metric type=Accuracy topk=1,5, got '
                            f'{" ".join(words)!r}.')
        metrics.append(METRICS.build({key: DictAction._parse_iterable(value) for key, value in options.items()}))
    predictions = read_predictions(args.predictions)
    for metric in metrics:
        if isinstance(metric, SINGLE_LABEL):
            check_single_label(predictions, type(metric).__name__)
    for name, value in Evaluator(metrics).offline_evaluate(predictions).items():
        print(f'{name}: {value}')


if __name__ == '__main__':
    command_line(main)
