#!/usr/bin/env python
"""Train every run of a recipe, print its table of errors, and draw the attention maps.

A run that is done is not done again, and one that was interrupted goes on from its last checkpoint.
"""
import argparse
import os
from pathlib import Path

from mmengine.config import Config

from mmat.apis.launch import command_line
from mmat.apis.reproduce import draw, execute, plan, table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipe', help='such as recipes/at_digits.py')
    parser.add_argument('--work-dir', help='default: work_dirs/<recipe name>')
    parser.add_argument('--seeds', type=int, metavar='N', help='only the first N seeds of each row')
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='runs at a time; default: one for each core')
    args = parser.parse_args()

    if not Path(args.recipe).is_file():
        recipes = ', '.join(str(path) for path in sorted(Path(__file__).parents[1].glob('recipes/*.py')))
        raise FileNotFoundError(f'no recipe {args.recipe!r}; there are {recipes}')
    recipe = Config.fromfile(args.recipe)
    work_dir = Path(args.work_dir or Path('work_dirs') / Path(args.recipe).stem)
    runs = plan(recipe, work_dir, args.seeds)
    print(f'{recipe.title}: {len(runs)} runs, {args.jobs} at a time, in {work_dir}', flush=True)
    execute(runs, args.jobs, report=lambda line: print(line, flush=True))
    text = table(recipe, runs)
    (work_dir / 'table.md').write_text(text)
    draw(recipe, runs, work_dir / 'attention.png')
    print(f'\n{text}\n{recipe.note}\n\nTable: {work_dir / "table.md"}\nAttention maps: {work_dir / "attention.png"}')


if __name__ == '__main__':
    command_line(main)
