#!/usr/bin/env python
"""Train what a table of results needs, and write its report.

What is done is not done again, and what was interrupted goes on from its last checkpoint.
"""
import argparse
import shlex
from pathlib import Path

from mmat.apis.launch import SettingsAction, command_line
from mmat.reproduce.joint_runs import split_into_jobs, training_command
from mmat.reproduce.pool import DONE, assign_devices, execute
from mmat.reproduce.progress import failures, show_progress
from mmat.reproduce.recipe import plan, read_recipe, table_name, training_order
from mmat.reproduce.report import results_table, write_report
from mmat.reproduce.requirements import downloads, missing
from mmat.reproduce.slurm import execute_on_slurm


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipe', help='such as recipes/at_digits.py')
    parser.add_argument('--seeds', type=int, metavar='N', help="seeds of each cell; default: the recipe's")
    parser.add_argument('--only', nargs='+', default=(), metavar='NAME',
                        help="names of configs or rows, such as 'wrn16-1_*'; the teachers they need are trained too")
    parser.add_argument('--epochs-scale', type=float, default=1., metavar='X',
                        help='train X times as long, schedules scaled alike; the report says so')
    parser.add_argument('--work-dir', help='default: work_dirs/<recipe name>, and _x<scale> where epochs are scaled')
    parser.add_argument('--jobs', type=int, metavar='N',
                        help='trainings at a time; default: one for each GPU, on a machine without them for each core. '
                        'With slurm: of each job array; default: as many as the cluster lets')
    parser.add_argument('--gpus', type=int, nargs='+', metavar='N', help='numbers of the GPUs to use; default: all')
    parser.add_argument('--gpus-per-run', type=int, metavar='N',
                        help="processes that share a training and its batch; default: the recipe's")
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction, metavar='KEY=VALUE',
                        help='override settings of every config, such as train_dataloader.dataset.data_root=PATH')
    parser.add_argument('--share-batches', action='store_true',
                        help='train the seeds of a config together: they see the same batches, and what their teacher '
                        'makes of them is computed once; the report says so')
    parser.add_argument('--executor', choices=['local', 'slurm'], default='local',
                        help='where trainings run: on this machine, or as jobs of a Slurm cluster')
    parser.add_argument('--slurm', nargs='+', default=[], metavar='KEY=VALUE',
                        help='what to ask of Slurm for each training, such as partition=gpu gpus_per_node=1')
    parser.add_argument('--dry-run', action='store_true', help='tell what would be trained, and train nothing')
    parser.add_argument('--report', action='store_true', help='write the report of what is done, and train nothing')
    return parser.parse_args()


def main():
    args = parse_args()
    if args.slurm and args.executor != 'slurm':
        raise ValueError('--slurm is for --executor slurm')
    if args.gpus and args.executor == 'slurm':
        raise ValueError('--gpus is for this machine; with --executor slurm it is --slurm gpus_per_node=N')
    if args.share_batches and args.executor == 'slurm':
        raise ValueError('--share-batches is for this machine; with --executor slurm each seed is a job of its own')
    recipe, name = read_recipe(args.recipe), Path(args.recipe).stem
    work_dir = Path(args.work_dir or Path('work_dirs') / table_name(args.recipe, args.epochs_scale))
    processes = args.gpus_per_run or recipe.gpus_per_run
    runs = plan(recipe, work_dir, args.seeds, args.only, args.epochs_scale, args.gpus_per_run,
                args.cfg_options, args.share_batches)
    ordered = training_order(runs)

    lacking = [] if args.report else missing(ordered)
    if args.dry_run:
        for group in split_into_jobs(ordered):
            for run in group:
                print(f'# {run.label}: ' + ('done' if run.result else 'running' if run.is_running else 'to be trained'))
            print(shlex.join(training_command([run for run in group if not run.result] or group)))
        print('\n'.join(f'# missing: {each}' for each in lacking))
        return int(bool(lacking))
    if lacking:
        raise FileNotFoundError('nothing was trained, for there is something missing:\n' + '\n'.join(
            f'- {each}' for each in lacking))

    states = {}
    if not args.report:
        for each in downloads(ordered):
            print(each, flush=True)
        # On a cluster the devices are Slurm's.
        devices = assign_devices(args.jobs, args.gpus, processes) if args.executor == 'local' else []
        try:
            with show_progress(recipe.title, len(devices) or args.jobs or len(ordered), recipe.measure) as watch:
                if args.executor == 'slurm':
                    options = dict(word.partition('=')[::2] for word in args.slurm)
                    states = execute_on_slurm(ordered, watch, work_dir / 'slurm', args.jobs, options)
                else:
                    states = execute(ordered, devices, watch)
        except KeyboardInterrupt:
            print('Interrupted. The same command goes on from the last checkpoints; --report writes what is done.')
            return 130
    report = write_report(name, recipe, runs, work_dir)
    print(f'\n{results_table(name, recipe, runs, work_dir)}\n\n{recipe.note}\n\nReport: {", ".join(map(str, report))}')
    print(f'\n{failures(states)}' if failures(states) else '', end='', flush=True)
    return int(any(state != DONE for state in states.values()))


if __name__ == '__main__':
    command_line(main)
