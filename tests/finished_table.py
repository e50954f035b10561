"""A small checkout and a table with finished runs, written without training."""
import hashlib
import json
import re
from pathlib import Path

import torch

from mmat.models import build_network

ROOT = Path(__file__).parents[1]
TEACHER, STUDENT, TAUGHT = 'wrn16-2_1xb32_digits', 'wrn16-1_1xb10_digits', 'wrn16-1_at-wrn16-2_1xb10_digits'
# Accuracies by seed. The median seeds are 1, 2 and 0. The teacher of the students is seed 0.
ACCURACIES = {
    TEACHER: {0: 98.25, 1: 98.5, 2: 98.75},
    STUDENT: {0: 80.5, 1: 70.25, 2: 75.},
    TAUGHT: {0: 81.0, 1: 82.25, 2: 79.125},
}
RECIPE = f"""
title = 'A table'
seeds = (0, 1, 2)
cells = [
    dict(row='teacher', column='error', config='{TEACHER}'),
    dict(row='student', column='error', config='{STUDENT}', published=20.9),
    dict(row='student + AT', column='error', config='{TAUGHT}', teacher='{TEACHER}', published=18.5),
]
note = 'A note.'
"""
COMMIT = '0123456789ab'
VERSIONS = dict(mmat='0.1.0', python='3.12.0', torch='2.5.0', torchvision='0.20.0', mmengine='0.10.5',
                mmpretrain='1.2.0', numpy='2.0.0')


def make_checkout(folder):
    """Write the checkout: metafiles of two families, the recipe, and pages with tables."""
    for family in ('at', 'wide_resnet'):
        (folder / 'configs' / family).mkdir(parents=True)
        # Remove the recorded checkpoints, which do not exist here.
        text = (ROOT / 'configs' / family / 'metafile.yml').read_text()
        (folder / 'configs' / family / 'metafile.yml').write_text(re.sub(
            r'^ +(Weights: checkpoints/|Training Log: checkpoints/|Epochs: |Seed: ).*\n', '', text, flags=re.MULTILINE))
    (folder / 'model-index.yml').write_text(
        'Import:\n  - configs/at/metafile.yml\n  - configs/wide_resnet/metafile.yml\n')
    (folder / 'recipes').mkdir()
    (folder / 'recipes' / 'tiny.py').write_text(RECIPE)
    for page, file in (('README.md', 'results/tiny.csv'), ('configs/at/README.md', 'results/tiny.csv only=*_at-*'),
                       ('checkpoints/README.md', 'checkpoints/index.csv')):
        (folder / page).parent.mkdir(exist_ok=True)
        (folder / page).write_text(f'# A page\n\n<!-- table: {file} -->\n<!-- end of table -->\n\nThe rest.\n')
    return folder


def make_runs(folder, accuracies=ACCURACIES, options=None, epochs=None):
    """Write the table's folder: for each run its state, last checkpoint and log."""
    teacher_sha256 = None
    for name, by_seed in accuracies.items():
        planned = 10 if name == TEACHER else 60
        for seed, accuracy in by_seed.items():
            torch.manual_seed(seed)
            run = folder / name / f'seed{seed}'
            (run / '20260102_030405' / 'vis_data').mkdir(parents=True)
            done = epochs or planned
            torch.save(dict(state_dict=build_network(name).state_dict(), optimizer=dict(lr=1),
                            meta=dict(epoch=done, iter=5 * done, seed=seed)), run / f'epoch_{done}.pth')
            sha256 = hashlib.sha256((run / f'epoch_{done}.pth').read_bytes()).hexdigest()
            teacher_sha256 = teacher_sha256 or sha256
            has_teacher = name == TAUGHT
            write(run / 'run.json', dict(
                config=name, seed=seed, epochs=done, options=options or {}, processes=1,
                teacher=f'../../{TEACHER}/seed0' if has_teacher else None, attempts=[dict(started=1., ended=8.)]))
            write(run / 'result.json', dict(
                metrics={'accuracy/top1': accuracy + 1e-6}, epochs=done, checkpoint=f'epoch_{done}.pth',
                checkpoint_sha256=sha256, teacher_sha256=teacher_sha256 if has_teacher else None, wall_time=7,
                attempts=1, date='2026-01-02', precision='bf16 autocast', hardware='2 cores of A CPU', commit=COMMIT,
                versions=VERSIONS))
            lines = []
            for epoch in range(1, done + 1):
                lines += [dict(lr=0.1, loss=1 / epoch, epoch=epoch, iter=5 * epoch, step=5 * epoch),
                          {'accuracy/top1': accuracy + epoch - done, 'step': epoch}]
            (run / '20260102_030405' / 'vis_data' / 'scalars.json').write_text(
                ''.join(f'{json.dumps(line)}\n' for line in lines))
    return folder


def write(path, content):
    path.write_text(json.dumps(content))


def change(path, **values):
    """Change values in a JSON file."""
    write(path, {**json.loads(path.read_text()), **values})


def files_of(folder):
    """Return path -> content of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}
