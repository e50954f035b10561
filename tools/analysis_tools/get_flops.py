#!/usr/bin/env python
"""Count parameters and multiply-accumulates of a config's network, including attention and heads.

For a distillation config, the student is counted and compared with its teacher. The whole forward pass is counted, from
one image to the scores. "FLOPs" in papers on these networks are multiply-accumulates.
"""
import argparse

from mmat.apis import command_line
from mmat.errors import UserError
from mmat.models import build_network
from mmat.models.distillers import Teacher, teachers_of
from mmat.tooling.arguments import add_config_arguments, read_config
from mmat.tooling.complexity import Complexity, image_size, measure_complexity


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('--shape', type=int, nargs='+', metavar='PIXELS',
                        help='height and width of the image, or one number for both. Default: as in the config')
    parser.add_argument('--depth', type=int, default=1,
                        help='depth of the listed modules: 0 none, 1 backbone, neck and head, ... Default: 1')
    args = parser.parse_args()
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape needs one or two numbers of at least 1, got {args.shape}')
    return args


def main():
    args = parse_args()
    config = read_config(args)
    height, width = (args.shape * 2)[:2] if args.shape else image_size(config)
    network = build_network(config)
    complexity = measure_complexity(network, height, width)
    print(f'{args.config}: {type(network).__name__}, one image of {height} x {width} pixels\n')
    print(f'{"":<28}{"parameters":>15}{"multiply-accumulates":>24}')
    for path, module in complexity.modules.items():
        if path.count('.') < args.depth and (module.parameters or module.operations):
            print(format_row('  ' * path.count('.') + path.split('.')[-1], module))
    print(format_row('total', complexity))
    for name, teacher in teachers_of(config.model).items():
        print_teacher(name, teacher, complexity, height, width)


def print_teacher(name: str, teacher, student: Complexity, height: int, width: int) -> None:
    try:
        # The architecture needs no weights.
        complexity = measure_complexity(Teacher.from_config(teacher).architecture, height, width)
    except UserError as error:
        print(f'Cannot count the {name}. {error}')
        return
    print(format_row(name, complexity))
    print(f'{f"student / {name}":<28}{student.parameters / complexity.parameters:>14.1%} '
          f'{student.operations / complexity.operations:>23.1%}')


def format_row(name: str, complexity: Complexity) -> str:
    return f'{name:<28}{complexity.parameters:>15,}{complexity.operations:>24,}'


if __name__ == '__main__':
    command_line(main)
