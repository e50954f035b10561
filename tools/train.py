#!/usr/bin/env python
"""Train a model from a config."""
import argparse

import torch

from mmat.apis.launch import build_runner, command_line, load_config, parse_common_args
from mmat.models.distillers import Teacher
from mmat.utils.checkpoint import find_checkpoint, read_checkpoint


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or a name from mmat.list_models()')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='PATH',
                        help='go on from a checkpoint; without PATH from the last one in the work dir, if there is one')
    parser.add_argument('--amp', action='store_true',
                        help='mixed precision: fp16 with loss scaling on a GPU, bf16 on the CPU')
    parser.add_argument('--seed', type=int, help='random seed; default: a random one, which the log tells')
    parser.add_argument('--deterministic', action='store_true', help='deterministic algorithms only')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help="scale the learning rate with the batch of all processes, from that of the config's name")
    args = parse_common_args(parser)

    config = load_config(args)
    if args.auto_scale_lr:
        if not (config.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise ValueError('--auto-scale-lr needs the batch that the rate is for: auto_scale_lr=dict('
                             f'base_batch_size=...), which {args.config} does not have')
        config.auto_scale_lr.enable = True
    if args.amp and config.optim_wrapper.get('type', 'OptimWrapper') == 'OptimWrapper':
        on_gpu = dict(type='AmpOptimWrapper', loss_scale='dynamic')
        config.optim_wrapper.update(on_gpu if torch.cuda.is_available() else dict(type='mmat.AutocastOptimWrapper'))
    config.setdefault('randomness', {})
    if args.seed is not None:
        config.randomness.seed = args.seed
    if args.deterministic:
        config.randomness.deterministic = True
    if args.resume:
        checkpoint = _checkpoint_to_resume(args.resume, config.work_dir)
        if checkpoint:  # otherwise the run begins as it would without --resume, from load_from if there is one
            config.resume = True
            config.load_from = checkpoint
    if config.get('load_from') and '://' not in config.load_from:
        config.load_from = find_checkpoint(config.load_from)
    teacher = config.model.get('teacher')
    if teacher:
        Teacher.of(teacher).check_checkpoint()  # says so before all else
    build_runner(config, fp32=args.fp32).train()


def _checkpoint_to_resume(resume: str, work_dir: str):
    try:
        path = find_checkpoint(work_dir if resume == 'auto' else resume)
    except FileNotFoundError:
        if resume != 'auto':
            raise
        return None
    read_checkpoint(path)  # says so now if it cannot be read
    return path


if __name__ == '__main__':
    command_line(main)
