"""tools/reproduce.py: a table as one command."""
import json
import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
from tool_runner import TOOLS, fails, run_tool

ROOT = TOOLS.parent
# An epoch is two steps on images of 8x8 pixels.
SMALL = """
train_dataloader = dict(batch_size=32, dataset=dict(train_size=64, size=8))
val_dataloader = dict(dataset=dict(size=8, indices=50))
test_dataloader = dict(dataset=dict(size=8, indices=50))
train_cfg = dict(max_epochs=2, val_interval=2)
param_scheduler = dict(milestones=[1])
"""
RECIPE = """
title = 'A small table'
seeds = (0, )
cells = [
    dict(row='teacher', column='error', config='{folder}/teacher_1xb32_digits.py'),
    dict(row='student', column='error', config='{folder}/student_1xb32_digits.py'),
    dict(row='student + AT', column='error', config='{folder}/student_at-teacher_1xb32_digits.py',
         teacher='{folder}/teacher_1xb32_digits.py', published=50),
]
note = 'Nothing to be proud of.'
"""
AT = """
model = dict(teacher=dict(_delete_=True, model='{folder}/teacher_1xb32_digits.py', checkpoint=''))
"""


@pytest.fixture
def recipe(tmp_path):
    bases = dict(teacher=f'{ROOT}/configs/wide_resnet/wrn16-2_1xb32_digits.py',
                 student=f'{ROOT}/configs/wide_resnet/wrn16-1_1xb10_digits.py')
    bases['student_at-teacher'] = f'{ROOT}/configs/at/wrn16-1_at-wrn16-2_1xb10_digits.py'
    for name, base in bases.items():
        (tmp_path / f'{name}_1xb32_digits.py').write_text(
            f'_base_ = {base!r}\n{SMALL}{AT.format(folder=tmp_path) if "at" in name else ""}')
    (tmp_path / 'small.py').write_text(RECIPE.format(folder=tmp_path))
    return tmp_path / 'small.py'


def results(work_dir):
    return {file.parts[-3].partition('_1x')[0]: json.loads(file.read_text())
            for file in work_dir.glob('*/seed0/result.json')}


def test_killed_and_called_again_it_ends_as_planned(recipe, tmp_path):
    work_dir = tmp_path / 'a table'  # whoever names folders likes spaces
    words = [recipe, '--work-dir', work_dir, '--jobs', 1, '--only', '*_at-*']
    tool = os.fork()  # the imports are done
    if tool == 0:
        try:
            run_tool('reproduce.py', *words)
        finally:
            os._exit(1)
    while not (work_dir / 'teacher_1xb32_digits' / 'seed0' / 'last_checkpoint').exists():
        assert os.waitpid(tool, os.WNOHANG) == (0, 0)
        time.sleep(0.02)
    os.kill(tool, signal.SIGKILL)
    os.waitpid(tool, 0)

    code, output = run_tool('reproduce.py', *words)
    assert code == 0
    done = results(work_dir)
    assert set(done) == {'teacher', 'student_at-teacher'}
    assert done['teacher']['attempts'] == 2 and done['student_at-teacher']['attempts'] == 1
    assert done['student_at-teacher']['teacher_sha256'] == done['teacher']['checkpoint_sha256']
    error = 100 - done['student_at-teacher']['metrics']['accuracy/top1']
    assert f'done     student_at-teacher_1xb32_digits, seed 0: error {error:.2f} %   [2/2]' in output
    assert 'Nothing to be proud of.' in output and f'{error:.2f}' in output.partition('[2/2]')[2]
    # What is done is not done again.
    before = {file: file.stat().st_mtime_ns for file in work_dir.glob('*/seed0/*.json')}
    code, output = run_tool('reproduce.py', *words)
    assert code == 0 and '2 trainings, 2 of them done before' in output
    assert {file: file.stat().st_mtime_ns for file in work_dir.glob('*/seed0/*.json')} == before


def test_a_dry_run_trains_nothing(recipe, tmp_path):
    code, output = run_tool('reproduce.py', recipe, '--work-dir', tmp_path / 'work', '--dry-run', '--only', '*at*',
                            '--epochs-scale', '2')
    assert code == 0 and not (tmp_path / 'work').exists()
    commands = [shlex.split(line) for line in output.splitlines() if line and not line.startswith('#')]
    assert [Path(command[2]).stem for command in commands] == [
        'teacher_1xb32_digits', 'student_at-teacher_1xb32_digits']
    assert all({'train_cfg.max_epochs=4', 'param_scheduler.milestones=[2]'} <= set(command) for command in commands)
    assert commands[1][-1] == (f'model.teacher.checkpoint={tmp_path}/work/teacher_1xb32_digits/seed0')


def test_seeds_share_their_batches(recipe, tmp_path):
    work_dir = tmp_path / 'work'
    words = [recipe, '--work-dir', work_dir, '--jobs', 1, '--only', 'student', '--seeds']
    code, output = run_tool('reproduce.py', *words, 2, '--share-batches', '--dry-run')
    folder = work_dir / 'student_1xb32_digits'
    assert code == 0 and not work_dir.exists()
    command, = [shlex.split(line) for line in output.splitlines() if line and not line.startswith('#')]
    at = command.index('--work-dir')
    assert command[at:at + 8] == ['--work-dir', str(folder), '--seeds', '0', '1', '--batch-seed', '0', '--resume']

    code, output = run_tool('reproduce.py', *words, 2, '--share-batches')
    assert code == 0 and 'Seeds 0 and 1 saw the same batches' in output
    runs = [{**json.loads((folder / f'seed{seed}' / f'{name}.json').read_text())} for seed in (0, 1)
            for name in ('run', 'result')]
    assert [each['batch_seed'] for each in runs] == [0] * 4
    assert len({each['checkpoint_sha256'] for each in runs[1::2]}) == 2
    assert {each['precision'] for each in runs[1::2]} == {'bf16 autocast'}
    # One more, with the batches that those had.
    code, output = run_tool('reproduce.py', *words, 3, '--share-batches', '--dry-run')
    assert '# student_1xb32_digits, seed 1: done\n# student_1xb32_digits, seed 2: to be trained\n' in output
    assert f'--work-dir {folder}/seed2 --seed 2 --batch-seed 0 --resume' in output
    assert 'was begun with --share-batches, and cannot go on without it' in fails('reproduce.py', *words, 2)
    # The report needs no reminder.
    code, output = run_tool('reproduce.py', *words, 2, '--report')
    assert code == 0 and 'Seeds 0 and 1 saw the same batches' in output
    assert (work_dir / 'report.md').read_text().count('--batch-seed 0') == 2


@pytest.mark.parametrize('words, message', [
    (['--jobs', 0], '--jobs must be at least 1, got 0'),
    (['--seeds', 0], '--seeds must be at least 1, got 0'),
    (['--epochs-scale', 'nan'], 'the epochs can be scaled by a positive number only, got nan'),
    (['--gpus-per-run', 3], 'the batch of .*, 32, cannot be shared among 3 processes'),
    (['--share-batches', '--gpus-per-run', 2], '--share-batches trains all seeds in one process, and here 2 share'),
    (['--share-batches', '--executor', 'slurm'], '--share-batches is for this machine; with --executor slurm each'),
    (['--only', 'techer'], "--only 'techer' matches no config and no row of the recipe; the closest are 'teacher'"),
])
def test_mistakes_are_told_in_a_line(recipe, tmp_path, words, message):
    assert re.match(message, fails('reproduce.py', recipe, '--work-dir', tmp_path / 'work', *words))
    assert not (tmp_path / 'work').exists()


def test_a_file_where_the_folder_should_be(recipe, tmp_path):
    (tmp_path / 'work').touch()
    assert 'nothing can be written to' in fails('reproduce.py', recipe, '--work-dir', tmp_path / 'work')
