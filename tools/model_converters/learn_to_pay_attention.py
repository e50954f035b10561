#!/usr/bin/env python
"""Convert a net.pth of github.com/SaoYan/LearnToPayAttention for the vgg-reimpl* configs."""
from mmat.apis import command_line
from mmat.converters import convert_learn_to_pay_attention
from mmat.errors import CheckpointError
from mmat.tooling.convert import converter_parser, write_converted
from mmat.utils.checkpoint import read_checkpoint


def main():
    args = converter_parser(__doc__, 'net.pth file').parse_args()
    content = read_checkpoint(args.source)
    state = convert_learn_to_pay_attention(content.get('state_dict', content))
    attention, classes = 'neck.projections.0.weight' in state, len(state['head.fc.bias'])
    config = f'vgg-reimpl{"-att3-concat-pc" if attention else ""}_1xb128_cifar{classes}'
    if args.config is None and classes not in (10, 100):
        raise CheckpointError(f'{args.source!r} holds a network with {classes} classes, which matches no config of the '
                              'zoo. Set one with --config.')
    write_converted(args, state, 'SaoYan/LearnToPayAttention', config)
    if attention and args.config is None:
        name, data = config.rsplit('_1xb128_', 1)
        print(f'If the network has attention after max-pooling, use {name}-after_1xb128_{data}, with the same '
              'weights.')


if __name__ == '__main__':
    command_line(main)
