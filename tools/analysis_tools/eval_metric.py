#!/usr/bin/env python
"""Compute metrics from the predictions of tools/test.py --out FILE.pkl, without running the network."""
import argparse

from mmengine.config import DictAction
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, init_default_scope

import mmat.models  # noqa: F401  imports mmpretrain's metrics
from mmat.apis import command_line
from mmat.errors import UserError
from mmat.tooling.predictions import read_predictions


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
    for name, value in Evaluator(metrics).offline_evaluate(read_predictions(args.predictions)).items():
        print(f'{name}: {value}')


if __name__ == '__main__':
    command_line(main)
