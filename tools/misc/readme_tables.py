#!/usr/bin/env python
"""Update the tables of the READMEs from results/*.csv and checkpoints/index.csv."""
import argparse

from mmat.apis.launch import command_line
from mmat.reproduce.readme_tables import update_pages
from mmat.utils.zoo import zoo_root


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing; exit with status 1 if a table is outdated')
    args = parser.parse_args()
    root = zoo_root()
    pages = update_pages(root, write=not args.check)
    for page in pages:
        print(f'{page.relative_to(root)}: ' + ('outdated' if args.check else 'updated'))
    return int(args.check and bool(pages))


if __name__ == '__main__':
    command_line(main)
