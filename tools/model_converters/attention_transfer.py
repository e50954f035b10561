#!/usr/bin/env python
"""Convert a model.pt7 of github.com/szagoruyko/attention-transfer: a WRN of cifar.py or a network of imagenet.py."""
from mmat.apis import command_line
from mmat.converters import convert_attention_transfer
from mmat.errors import CheckpointError
from mmat.tooling.convert import converter_parser, write_converted
from mmat.utils.checkpoint import read_checkpoint


def main():
    parser = converter_parser(__doc__, 'model.pt7 file')
    parser.add_argument('--network', choices=['student', 'teacher'],
                        help='network to convert, for a file with a student and a teacher')
    args = parser.parse_args()
    content = read_checkpoint(args.source)
    if 'params' not in content:
        raise CheckpointError(f'{args.source!r} is not a model.pt7: it has no `params`, but '
                              f'{", ".join(list(content)[:5])}.')
    # Scripts before PyTorch 0.4 saved the running statistics separately.
    state = convert_attention_transfer({**content['params'], **content.get('stats', {})}, args.network)
    write_converted(args, state, 'szagoruyko/attention-transfer')
    if len(state['head.fc.bias']) == 100:
        print('cifar.py normalises CIFAR-100 with the statistics of CIFAR-10, unlike the configs here. Test with '
              '--cfg-options model.data_preprocessor.mean=[125.3,123.0,113.9] '
              'model.data_preprocessor.std=[63.0,62.1,66.7]')


if __name__ == '__main__':
    command_line(main)
