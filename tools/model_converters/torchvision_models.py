#!/usr/bin/env python
"""Convert a state dict of torchvision's ResNet or VGG, wide and with BN too, such as the files of its own zoo."""
from mmat.apis import command_line
from mmat.converters import convert_torchvision
from mmat.tooling.convert import converter_parser, write_converted
from mmat.utils.checkpoint import read_checkpoint


def main():
    args = converter_parser(__doc__, 'its .pth').parse_args()
    content = read_checkpoint(args.source)
    state = convert_torchvision(content.get('state_dict', content))
    write_converted(args, state, 'torchvision')


if __name__ == '__main__':
    command_line(main)
