#!/usr/bin/env python
"""Convert ``net.pth`` of github.com/SaoYan/LearnToPayAttention for this project's ``vgg-reimpl*`` configs."""
from mmat.apis import command_line
from mmat.converters import convert_learn_to_pay_attention
from mmat.tooling.convert import converter_parser, write_converted
from mmat.utils.checkpoint import read_checkpoint


def main():
    args = converter_parser(__doc__, 'its net.pth').parse_args()
    content = read_checkpoint(args.source)
    state = convert_learn_to_pay_attention(content.get('state_dict', content))
    attention, classes = 'neck.projections.0.weight' in state, len(state['head.fc.bias'])
    config = f'vgg-reimpl{"-att3-concat-pc" if attention else ""}_1xb128_cifar{classes}'
    if args.config is None and classes not in (10, 100):
        raise ValueError(f'{args.source!r} is of a network of {classes} classes, for which no config is here; name one '
                         'with --config')
    write_converted(args, state, 'SaoYan/LearnToPayAttention', config)
    if attention and args.config is None:
        name, data = config.rsplit('_1xb128_', 1)
        print(f'and {name}-after_1xb128_{data}: the file does not tell whether its network pays attention before or '
              'after max-pooling. That is up to you.')


if __name__ == '__main__':
    command_line(main)
