#!/usr/bin/env python
"""Compute metrics from predictions that tools/test.py --out FILE.pkl wrote, without running the network again."""
import argparse

from mmengine.config import DictAction
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, init_default_scope

import mmat.models  # noqa: F401  imports mmpretrain's metrics
from mmat.apis import command_line
from mmat.tooling.predictions import read_predictions


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('predictions', help='the .pkl file; only tensors and plain values are read of it')
    parser.add_argument('--metric', nargs='+', action='append', required=True, metavar='KEY=VALUE', dest='metrics',
                        help='a metric of mmpretrain and its options, such as --metric type=Accuracy topk=1,5; may be '
                        'given several times')
    return parser.parse_args()


def main():
    args = parse_args()
    init_default_scope('mmpretrain')
    metrics = []
    for words in args.metrics:
        odd = [word for word in words if '=' not in word]
        options = dict(word.split('=', 1) for word in words if '=' in word)
        if odd or 'type' not in options:
            raise ValueError(f'--metric takes KEY=VALUE, type among them, such as --metric type=Accuracy topk=1,5; got '
                             f'{" ".join(words)!r}')
        metrics.append(METRICS.build({key: DictAction._parse_iterable(value) for key, value in options.items()}))
    for name, value in Evaluator(metrics).offline_evaluate(read_predictions(args.predictions)).items():
        print(f'{name}: {value}')


if __name__ == '__main__':
    command_line(main)
