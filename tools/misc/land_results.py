#!/usr/bin/env python
"""Take the finished runs of a table into the repository, after tools/reproduce.py has trained them.

Writes results/<table>.csv, checkpoints with their logs (of each config the run of the median seed, of a teacher the one
that taught; half precision where no test image changes sides), the metafile entries, and the tables of the READMEs.
"""
import argparse
from pathlib import Path

from mmat.apis.launch import command_line
from mmat.reproduce.landing import land, read_table
from mmat.reproduce.readme_tables import update
from mmat.reproduce.recipe import table_name
from mmat.utils.zoo import zoo_root


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipe', help='such as recipes/at_digits.py')
    parser.add_argument('--epochs-scale', type=float, default=1., metavar='X', help='as it was trained with')
    parser.add_argument('--work-dir', help='default: work_dirs/<recipe name>, and _x<scale> where epochs are scaled')
    parser.add_argument('--weights', nargs='*', metavar='NAME',
                        help="names of configs, such as 'wrn16-1_*', that get a checkpoint in the repository; without "
                        'a name none does; default: all that are small enough and have none of another table')
    args = parser.parse_args()
    root = zoo_root()
    if not (root / 'setup.py').is_file():
        raise ValueError(f'results land in a checkout of the repository, and {str(root)!r} is an installed package')
    work_dir = Path(args.work_dir or Path('work_dirs') / table_name(args.recipe, args.epochs_scale))
    for line in land(read_table(args.recipe, work_dir, args.epochs_scale), root, args.weights):
        print(line)
    for page in update(root):
        print(f'{page.relative_to(root)}: tables filled')


if __name__ == '__main__':
    command_line(main)
