#!/usr/bin/env python
"""Convert a ResNet of github.com/szagoruyko/functional-zoo.

Supported: resnet-18-export, resnet-34-export, wide-resnet-50-2-export, and resnet-18-at-export, the student of
attention transfer.
"""
from mmat.apis import command_line
from mmat.converters import convert_functional_zoo, read_hickle
from mmat.tooling.convert import converter_parser, write_converted
from mmat.utils.checkpoint import read_checkpoint


def main():
    args = converter_parser(__doc__, '.hkl or .pth file').parse_args()
    is_hdf5 = args.source.endswith(('.hkl', '.h5', '.hdf5'))
    state = convert_functional_zoo((read_hickle if is_hdf5 else read_checkpoint)(args.source))
    write_converted(args, state, 'szagoruyko/functional-zoo')


if __name__ == '__main__':
    command_line(main)
