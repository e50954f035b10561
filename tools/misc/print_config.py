#!/usr/bin/env python
"""Print a config with its bases and --cfg-options merged."""
import argparse

from mmat.apis import command_line
from mmat.tooling.arguments import add_config_arguments, read_config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    print(read_config(parser.parse_args()).pretty_text)


if __name__ == '__main__':
    command_line(main)
