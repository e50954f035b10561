#!/usr/bin/env python
"""Train all runs of a table of results, and write its report.

After an interruption, run the same command again: finished runs are skipped, the others resume from their last
checkpoint.
"""
import argparse
import shlex
from pathlib import Path

from mmat.apis.launch import SettingsAction, command_line
from mmat.errors import ConfigError, UserError
from mmat.reproduce.joint_runs import split_into_jobs, training_command
from mmat.reproduce.pool import assign_devices, execute
from mmat.reproduce.progress import format_failures, show_progress
from mmat.reproduce.recipe import plan, read_recipe, table_name, training_order
from mmat.reproduce.report import results_table, write_report
from mmat.reproduce.requirements import missing_requirements, pending_downloads
from mmat.reproduce.slurm import execute_on_slurm
from mmat.reproduce.states import DONE, RUNNING, WAITING


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipe', help='recipe file, such as recipes/at_digits.py')
    parser.add_argument('--seeds', type=int, metavar='N', help="number of seeds of each cell; default: the recipe's")
    parser.add_argument('--only', nargs='+', default=(), metavar='NAME',
                        help="configs or rows to train with their teachers, such as 'wrn16-1_*'; default: all")
    parser.add_argument('--epochs-scale', type=float, default=1., metavar='X',
                        help='multiply the number of epochs and scale all schedules; the report mentions it')
    parser.add_argument('--work-dir',
                        help='default: work_dirs/<recipe name>, with the suffix _x<scale> if epochs are scaled')
    parser.add_argument('--jobs', type=int, metavar='N',
                        help='simultaneous jobs; default: one per GPU, or per CPU core without GPUs. With Slurm: '
                        'simultaneous jobs of each array; default: no limit')
    parser.add_argument('--gpus', type=int, nargs='+', metavar='N', help='indices of the GPUs to use; default: all')
    parser.add_argument('--gpus-per-run', type=int, metavar='N',
                        help="processes of each training, which divide the batch; default: the recipe's")
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction, metavar='KEY=VALUE',
                        help='override settings of every config, such as train_dataloader.dataset.data_root=PATH')
    parser.add_argument('--share-batches', action='store_true',
                        help="train the seeds of a config in one process, sharing batches and the teacher's forward "
                        'pass; the report mentions it')
    parser.add_argument('--executor', choices=['local', 'slurm'], default='local',
                        help='train on this machine, or in jobs of a Slurm cluster; default: local')
    parser.add_argument('--slurm', nargs='+', default=[], metavar='KEY=VALUE',
                        help='Slurm options of each job, such as partition=gpu gpus_per_node=1')
    parser.add_argument('--dry-run', action='store_true', help='print the training commands and exit')
    parser.add_argument('--report', action='store_true', help='write the report of the finished runs and exit')
    return parser.parse_args()


def main():
    args = parse_args()
    if args.slurm and args.executor != 'slurm':
        raise ConfigError('--slurm needs --executor slurm.')
    if args.gpus and args.executor == 'slurm':
        raise ConfigError('--gpus cannot be used with --executor slurm. Use --slurm gpus_per_node=N.')
    if args.share_batches and args.executor == 'slurm':
        raise ConfigError('--share-batches cannot be used with --executor slurm, which trains each seed in a separate '
                          'job.')
    recipe, name = read_recipe(args.recipe), Path(args.recipe).stem
    work_dir = Path(args.work_dir or Path('work_dirs') / table_name(args.recipe, args.epochs_scale))
    processes = args.gpus_per_run or recipe.gpus_per_run
    runs = plan(recipe, work_dir, args.seeds, args.only, args.epochs_scale, args.gpus_per_run,
                args.cfg_options, args.share_batches)
    ordered = training_order(runs)

    missing = [] if args.report else missing_requirements(ordered)
    if args.dry_run:
        for job in split_into_jobs(ordered):
            for run in job:
                print(f'# {run.label}: {DONE if run.result else RUNNING if run.is_running else WAITING}')
            print(shlex.join(training_command([run for run in job if not run.result] or job)))
        print('\n'.join(f'# missing: {each}' for each in missing))
        return int(bool(missing))
    if missing:
        raise UserError('Missing requirements:\n' + '\n'.join(f'- {each}' for each in missing))

    states = {}
    if not args.report:
        for each in pending_downloads(ordered):
            print(each, flush=True)
        # Slurm assigns the devices on a cluster.
        devices = assign_devices(args.jobs, args.gpus, processes) if args.executor == 'local' else []
        try:
            with show_progress(recipe.title, len(devices) or args.jobs or len(ordered), recipe.measure) as watch:
                if args.executor == 'slurm':
                    options = dict(word.partition('=')[::2] for word in args.slurm)
                    states = execute_on_slurm(ordered, watch, work_dir / 'slurm', args.jobs, options)
                else:
                    states = execute(ordered, devices, watch)
        except KeyboardInterrupt:
            print('Interrupted. Run the same command to resume from the last checkpoints, or add --report to write a '
                  'report of the finished runs.')
            return 130
    report = write_report(name, recipe, runs, work_dir)
    print(f'\n{results_table(name, recipe, runs, work_dir)}\n\n{recipe.note}\n\nReport: {", ".join(map(str, report))}')
    failures = format_failures(states)
    print(f'\n{failures}' if failures else '', end='', flush=True)
    return int(any(state != DONE for state in states.values()))


if __name__ == '__main__':
    command_line(main)
