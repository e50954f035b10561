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

from mmat.utils.cpu import has_fast_bf16

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
note = 'The note.'
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


def test_a_killed_command_finishes_when_called_again(recipe, tmp_path):
    work_dir = tmp_path / 'a table'  # a path with a space
    words = [recipe, '--work-dir', work_dir, '--jobs', 1, '--only', '*_at-*']
    tool = os.fork()  # imports are done already
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
    assert 'The note.' in output and f'{error:.2f}' in output.partition('[2/2]')[2]
    # Finished runs are skipped.
    before = {file: file.stat().st_mtime_ns for file in work_dir.glob('*/seed0/*.json')}
    code, output = run_tool('reproduce.py', *words)
    assert code == 0 and '2 runs, 2 ' in output
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
    assert code == 0 and 'Seeds 0 and 1 share ' in output
    runs = [{**json.loads((folder / f'seed{seed}' / f'{name}.json').read_text())} for seed in (0, 1)
            for name in ('run', 'result')]
    assert [each['batch_seed'] for each in runs] == [0] * 4
    assert len({each['checkpoint_sha256'] for each in runs[1::2]}) == 2
    assert {each['precision'] for each in runs[1::2]} == {'bf16 autocast' if has_fast_bf16() else 'fp32'}
    # One more seed, with the same batches.
    code, output = run_tool('reproduce.py', *words, 3, '--share-batches', '--dry-run')
    assert '# student_1xb32_digits, seed 1: done\n# student_1xb32_digits, seed 2: waiting\n' in output
    assert f'--work-dir {folder}/seed2 --seed 2 --batch-seed 0 --resume' in output
    message = fails('reproduce.py', *words, 2)
    assert 'student_1xb32_digits/seed0' in message and message.count(' with --share-batches') == 2
    # --report alone also mentions it.
    code, output = run_tool('reproduce.py', *words, 2, '--report')
    assert code == 0 and 'Seeds 0 and 1 share ' in output
    assert (work_dir / 'report.md').read_text().count('--batch-seed 0') == 2


@pytest.mark.parametrize('words, message', [
    (['--jobs', 0], r'--jobs .*\b0\b'),
    (['--seeds', 0], r'--seeds .*\b0\b'),
    (['--epochs-scale', 'nan'], '--epochs-scale .*nan'),
    (['--gpus-per-run', 3], r'\b32 of .*_1xb32_digits.py .*\b3 processes'),
    (['--share-batches', '--gpus-per-run', 2], r'--share-batches .*\b2 .*--gpus-per-run 1'),
    (['--share-batches', '--executor', 'slurm'], '--share-batches .*--executor slurm'),
    (['--only', 'techer'], "--only 'techer' .*'teacher'"),
])
def test_mistakes_are_errors_of_one_line(recipe, tmp_path, words, message):
    assert re.search(message, fails('reproduce.py', recipe, '--work-dir', tmp_path / 'work', *words))
    assert not (tmp_path / 'work').exists()


def test_a_file_where_the_folder_should_be(recipe, tmp_path):
    (tmp_path / 'work').touch()
    message = fails('reproduce.py', recipe, '--work-dir', tmp_path / 'work')
    assert f'{tmp_path}/work/teacher_1xb32_digits/seed0' in message
