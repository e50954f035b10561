#!/usr/bin/env python
"""Train and test a linear classifier on a network's frozen features of other images (cross-domain experiment)."""
import argparse
from pathlib import Path

import mmengine
from mmengine.config import Config

from mmat.apis import command_line, linear_probe
from mmat.apis.launch import SettingsAction
from mmat.errors import MissingFileError, UserError


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, such as recipes/linear_probe/cifar10_to_digits.py')
    parser.add_argument('--device', help='default: a GPU if available')
    parser.add_argument('--out', metavar='FILE', help='write the result to this .json or .yml file')
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction, metavar='KEY=VALUE',
                        help='override settings of the config, such as checkpoint=PATH')
    args = parser.parse_args()
    if not Path(args.config).is_file():
        raise MissingFileError(f'No config {args.config!r}. See recipes/linear_probe/*.py for existing ones.')
    if args.out and Path(args.out).suffix not in ('.json', '.yml', '.yaml'):
        raise UserError(f'--out must end in .json, .yml or .yaml, got {args.out!r}.')
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    result = linear_probe(config, args.device)
    print(f'\n{config.network}: {result["accuracy"]:.2f} % of {result["test_images"]} test images correct '
          f'({result["train_accuracy"]:.2f} % of {result["train_images"]} training images), '
          f'{result["features"]} features, C = {result["C"]:g}')
    if args.out:
        mmengine.dump(dict(network=config.network, checkpoint=config.get('checkpoint'), **result), args.out)


if __name__ == '__main__':
    command_line(main)
