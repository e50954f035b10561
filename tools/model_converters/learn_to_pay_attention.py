#!/usr/bin/env python
"""Convert ``net.pth`` of github.com/SaoYan/LearnToPayAttention for this project's ``vgg-reimpl*`` configs."""
import argparse
import io

import torch

from mmat.apis import command_line
from mmat.converters import convert_learn_to_pay_attention
from mmat.engine import AtomicBackend
from mmat.models import build_network
from mmat.utils.checkpoint import load_state, read_checkpoint


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='its net.pth')
    parser.add_argument('target', help='the checkpoint to write')
    parser.add_argument(
        '--config', help='check that the checkpoint fits this config. Default: the one its classes and attention call '
        'for, among vgg-reimpl[-att3-concat-pc]_1xb128_cifar{10,100}')
    return parser.parse_args()


def main():
    args = parse_args()
    content = read_checkpoint(args.source)
    state = convert_learn_to_pay_attention(content.get('state_dict', content))
    config, attention = args.config, 'neck.projections.0.weight' in state
    if config is None:
        classes = len(state['head.fc.bias'])
        if classes not in (10, 100):
            raise ValueError(f'{args.source!r} is of a network of {classes} classes, for which no config is here; '
                             'name one with --config')
        config = f'vgg-reimpl{"-att3-concat-pc" if attention else ""}_1xb128_cifar{classes}'
    load_state(build_network(config), state, repr(args.source))
    buffer = io.BytesIO()
    torch.save(dict(state_dict=state, meta=dict(source='SaoYan/LearnToPayAttention')), buffer)
    AtomicBackend().put(buffer.getvalue(), args.target)
    print(f'wrote {args.target}, for {config}')
    if attention and args.config is None:
        name, data = config.rsplit('_1xb128_', 1)
        print(f'and {name}-after_1xb128_{data}: the file does not tell whether its network pays attention before or '
              'after max-pooling. That is up to you.')


if __name__ == '__main__':
    command_line(main)
