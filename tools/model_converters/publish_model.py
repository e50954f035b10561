#!/usr/bin/env python
"""Export a checkpoint for release: the student of a distillation run, without its training state.

The file's name has the date and 8 digits of its SHA-256: NAME_YYYYMMDD-HASH.pth. It holds weights and plain values only
and loads into the student's config. Existing files are never overwritten.
"""
import argparse
from pathlib import Path

from mmengine.config import Config

from mmat.apis import command_line
from mmat.tooling.publish import publish_checkpoint
from mmat.utils.zoo import find_config


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('in_file', help='checkpoint file or work directory (its last checkpoint)')
    parser.add_argument('out_file',
                        help='file to write, such as weights/wrn16-1_at-wrn16-2.pth; date and hash are added')
    parser.add_argument('--config', help='config file or a name from mmat.list_models(). The weights must fit it, '
                        'and its model config is saved in the file')
    parser.add_argument('--half', action='store_true',
                        help='save float16, which halves the size and rounds each weight to 11 bits')
    parser.add_argument('--no-ema', action='store_true',
                        help='export the trained weights of a run with averaged weights (EMAHook)')
    return parser.parse_args()


def main():
    args = parse_args()
    config = Config.fromfile(find_config(args.config)) if args.config else None
    path = publish_checkpoint(args.in_file, args.out_file, config, args.half, not args.no_ema)
    print(f'Wrote {path}, {Path(path).stat().st_size:,} bytes.' +
          ('' if config else ' The weights were not checked against a config (--config).'))


if __name__ == '__main__':
    command_line(main)
