#!/usr/bin/env python
"""Train what a table needs, and report it.

What is done is not done again, and what was interrupted goes on from its last checkpoint.
"""
import argparse
from pathlib import Path

from mmat.apis.launch import command_line
from mmat.reproduce.pool import devices_of, execute
from mmat.reproduce.progress import PlainProgress
from mmat.reproduce.recipe import in_order, plan, read_recipe


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipe', help='such as recipes/at_digits.py')
    parser.add_argument('--seeds', type=int, metavar='N', help="seeds of each cell; default: the recipe's")
    parser.add_argument('--only', nargs='+', default=(), metavar='NAME',
                        help="names of configs, such as 'wrn16-1_*'; their teachers are trained too")
    parser.add_argument('--epochs-scale', type=float, default=1., metavar='X',
                        help='train X times as long, schedules scaled alike; the report says so')
    parser.add_argument('--work-dir', help='default: work_dirs/<recipe name>, and _x<scale> where epochs are scaled')
    parser.add_argument('--jobs', type=int, help='trainings at a time; default: one for each GPU, or core')
    parser.add_argument('--gpus', type=int, nargs='+', metavar='N', help='numbers of the GPUs to use; default: all')
    parser.add_argument('--gpus-per-run', type=int, metavar='N',
                        help="processes that share a training and its batch; default: the recipe's")
    parser.add_argument('--dry-run', action='store_true', help='tell what would be trained, and train nothing')
    args = parser.parse_args()

    recipe = read_recipe(args.recipe)
    suffix = f'_x{args.epochs_scale:g}' if args.epochs_scale != 1 else ''
    work_dir = Path(args.work_dir or Path('work_dirs') / (Path(args.recipe).stem + suffix))
    processes = args.gpus_per_run or recipe.gpus_per_run
    plans = plan(recipe, work_dir, args.seeds, args.only, args.epochs_scale, processes)
    runs = in_order(plans)
    if args.dry_run:
        for run in runs:
            print(' '.join(run.command()))
        return 0
    states = execute(runs, devices_of(args.jobs, args.gpus, processes), PlainProgress())
    return int(any(state != 'done' for state in states.values()))


if __name__ == '__main__':
    command_line(main)
