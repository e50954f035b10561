#!/usr/bin/env python
"""Record the finished runs of a table in the repository, after training them with tools/reproduce.py.

Writes results/<table>.csv, checkpoints with their logs, the metafile entries, and the tables of the READMEs. The
checkpoint of a config is the run that taught the students of the table, otherwise the run with the median seed, in
float16 if that does not change its accuracy.
"""
import argparse
from pathlib import Path

from mmat.apis.launch import command_line
from mmat.errors import UserError
from mmat.reproduce.readme_tables import update_pages
from mmat.reproduce.recipe import table_name
from mmat.reproduce.record_results import read_table, record_results
from mmat.utils.zoo import zoo_root


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipe', help='recipe file, such as recipes/at_digits.py')
    parser.add_argument('--epochs-scale', type=float, default=1., metavar='X', help='same value as in training')
    parser.add_argument('--work-dir', help='default: work_dirs/<recipe name>, with _x<scale> if epochs are scaled')
    parser.add_argument('--weights', nargs='*', metavar='NAME',
                        help="configs to store a checkpoint of, such as 'wrn16-1_*'; without a name, none; default: "
                        'all whose checkpoint is small enough and not from another table')
    args = parser.parse_args()
    root = zoo_root()
    if not (root / 'setup.py').is_file():
        raise UserError(f'Results are recorded in a checkout of the repository, but {str(root)!r} is an installed '
                        'package.')
    work_dir = Path(args.work_dir or Path('work_dirs') / table_name(args.recipe, args.epochs_scale))
    for line in record_results(read_table(args.recipe, work_dir, args.epochs_scale), root, args.weights):
        print(line)
    for page in update_pages(root):
        print(f'{page.relative_to(root)}: tables updated')


if __name__ == '__main__':
    command_line(main)
