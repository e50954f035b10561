#!/usr/bin/env python
"""Print a config as it is after its bases and --cfg-options."""
import argparse

from mmengine.config import Config, DictAction

from mmat.apis.launch import command_line, merge_options
from mmat.utils.zoo import find_config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or a name from mmat.list_models()')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    config = Config.fromfile(find_config(args.config))
    merge_options(config, args.cfg_options)
    print(config.pretty_text)


if __name__ == '__main__':
    command_line(main)
