#!/usr/bin/env python
"""Make a checkpoint ready to be handed on: of a distillation run the student, and nothing of its training.

The file that is written has the date and 8 digits of its SHA-256 in its name: NAME_YYYYMMDD-HASH.pth. It holds weights
and plain values only, loads into the student's own config, and no other file is ever overwritten.
"""
import argparse
from pathlib import Path

from mmengine.config import Config

from mmat.apis import command_line
from mmat.tooling.publish import publish_checkpoint
from mmat.utils.zoo import find_config


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('in_file', help='checkpoint file, or work directory (its last checkpoint)')
    parser.add_argument('out_file', help='such as weights/wrn16-1_at-wrn16-2.pth')
    parser.add_argument('--config', help='config file, or a name from mmat.list_models(): check that the weights fit '
                        "it, and write its network's part into the file")
    parser.add_argument('--half', action='store_true',
                        help='store float16: half as large, each weight rounded to 11 bits')
    parser.add_argument('--no-ema', action='store_true',
                        help='of a run with averaged weights (EMAHook) take those that were trained instead')
    return parser.parse_args()


def main():
    args = parse_args()
    config = Config.fromfile(find_config(args.config)) if args.config else None
    path = publish_checkpoint(args.in_file, args.out_file, config, args.half, not args.no_ema)
    print(f'{path}: {Path(path).stat().st_size:,} bytes' + ('' if config else
          '; not checked against a config (--config)'))


if __name__ == '__main__':
    command_line(main)
