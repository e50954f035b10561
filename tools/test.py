#!/usr/bin/env python
"""Test a checkpoint with a config. A distillation config tests its student, and needs no teacher file."""
import argparse
from pathlib import Path

import mmengine
from mmengine.dist import is_main_process

from mmat.apis.launch import build_runner, command_line, load_config, parse_common_args
from mmat.errors import UserError
from mmat.tooling.predictions import DumpPredictions
from mmat.utils.checkpoint import load_weights


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or a name from mmat.list_models()')
    parser.add_argument('checkpoint', help='checkpoint file, URL, or work directory (its last checkpoint)')
    parser.add_argument('--out', metavar='FILE',
                        help='write the results to this file: metrics as .json or .yml, predictions as .pkl')
    parser.add_argument('--out-item', choices=['metrics', 'pred'],
                        help='content of --out; default: pred for .pkl, metrics otherwise')
    args = parse_common_args(parser)

    config = load_config(args, 'test')
    out_item = args.out_item or ('pred' if str(args.out).endswith(('.pkl', '.pickle')) else 'metrics')
    if args.out:
        suffixes = ('.pkl', '.pickle') if out_item == 'pred' else ('.json', '.yml', '.yaml')
        if Path(args.out).suffix not in suffixes:
            raise UserError(f'--out for {out_item} must end in {" or ".join(suffixes)}, got {args.out!r}.')
    runner = build_runner(config, fp32=args.fp32)
    load_weights(runner.model, args.checkpoint)
    if args.out and out_item == 'pred':
        runner.test_loop.evaluator.metrics.append(DumpPredictions(args.out))
    metrics = runner.test()
    if args.out and out_item == 'metrics' and is_main_process():
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    command_line(main)
