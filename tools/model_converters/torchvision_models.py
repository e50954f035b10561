#!/usr/bin/env python
"""Convert a state dict of torchvision's ResNet, wide ResNet or VGG (with or without BN), such as published weights."""
from mmat.apis import command_line
from mmat.converters import convert_torchvision
from mmat.tooling.convert import converter_parser, write_converted
from mmat.utils.checkpoint import read_checkpoint


def main():
    args = converter_parser(__doc__, '.pth file of torchvision').parse_args()
    content = read_checkpoint(args.source)
    state = convert_torchvision(content.get('state_dict', content))
    write_converted(args, state, 'torchvision')


if __name__ == '__main__':
    command_line(main)
