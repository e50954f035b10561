#!/usr/bin/env python
"""Train a model from a config."""
import argparse

import torch

from mmat.apis.launch import build_runner, command_line, load_config, parse_common_args, prepare
from mmat.apis.seeds import check_seeds, set_batch_seed, train_seeds
from mmat.errors import ConfigError, UserError
from mmat.models.distillers import Teacher, teachers_of
from mmat.utils.checkpoint import find_checkpoint, read_checkpoint


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or a name from mmat.list_models()')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='PATH',
                        help='resume from a checkpoint; without PATH, from the last one in the work dir, if any')
    parser.add_argument('--amp', action='store_true',
                        help='mixed precision: fp16 with loss scaling on a GPU, bf16 on the CPU')
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument('--seed', type=int, help='random seed; default: a random one, written to the log')
    seeds.add_argument('--seeds', type=int, nargs='+', metavar='SEED',
                       help='train several seeds in this process, each in WORK_DIR/seed<SEED>; they share batches and '
                            "the teacher's forward pass")
    parser.add_argument('--batch-seed', type=int, metavar='SEED',
                        help='seed of the order and augmentation of batches; default: --seed, or the first of --seeds')
    parser.add_argument('--deterministic', action='store_true', help='deterministic algorithms only')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate linearly with the total batch size, from auto_scale_lr in the '
                             'config')
    args = parse_common_args(parser)

    config = load_config(args)
    if args.auto_scale_lr:
        if not (config.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise ConfigError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config, which '
                              f'{args.config} does not set.')
        config.auto_scale_lr.enable = True
    if args.amp and config.optim_wrapper.get('type', 'OptimWrapper') == 'OptimWrapper':
        on_gpu = dict(type='AmpOptimWrapper', loss_scale='dynamic')
        config.optim_wrapper.update(on_gpu if torch.cuda.is_available() else dict(type='mmat.AutocastOptimWrapper'))
    config.setdefault('randomness', {})
    if args.seed is not None:
        config.randomness.seed = args.seed
    if args.deterministic:
        config.randomness.deterministic = True
    batch_seed = args.seeds[0] if args.seeds and args.batch_seed is None else args.batch_seed
    if args.seeds:
        check_seeds(config, args.seeds)
        if args.resume not in (None, 'auto'):
            raise UserError('--resume takes no path with --seeds: each seed resumes from its own checkpoint.')
    if batch_seed is not None:
        set_batch_seed(config, batch_seed)
    if args.resume and not args.seeds:
        checkpoint = _checkpoint_to_resume(args.resume, config.work_dir)
        if checkpoint:  # otherwise the run starts as without --resume, from load_from if it is set
            config.resume = True
            config.load_from = checkpoint
    if config.get('load_from') and '://' not in config.load_from:
        config.load_from = find_checkpoint(config.load_from)
    for name, teacher in teachers_of(config.model).items():
        Teacher.from_config(teacher, name).check_checkpoint()  # fail before the data is loaded
    if args.seeds:
        prepare(config, fp32=args.fp32)
        train_seeds(config, args.seeds, resume=bool(args.resume))
    else:
        build_runner(config, fp32=args.fp32).train()


def _checkpoint_to_resume(resume: str, work_dir: str):
    try:
        path = find_checkpoint(work_dir if resume == 'auto' else resume)
    except FileNotFoundError:
        if resume != 'auto':
            raise
        return None
    read_checkpoint(path)  # fail now if it cannot be read
    return path


if __name__ == '__main__':
    command_line(main)
