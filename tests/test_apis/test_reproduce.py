import json
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmat.apis import reproduce
from mmat.apis.reproduce import execute, plan, table

TEACHER, STUDENT, AT = 'wrn16-2_1xb32_digits', 'wrn16-1_1xb10_digits', 'wrn16-1_at-wrn16-2_1xb10_digits'


@pytest.fixture
def recipe():
    rows = [
        dict(name='teacher', config=TEACHER, seeds=(7, )),
        dict(name='student', config=STUDENT),
        dict(name='with AT', config=AT, teacher=TEACHER),
    ]
    return Config(dict(title='t', note='n', seeds=(0, 1, 2), rows=rows))


@pytest.fixture
def training(monkeypatch):
    """Stands in for train.py: the errors by config and seed it ends with, and the order in which runs begin and end."""
    state = dict(errors={}, events=[], fail=None)

    def start(run, threads):
        state['events'].append(('start', run.row['config'], run.seed))
        run.work_dir.mkdir(parents=True)
        (run.work_dir / 'train.log').write_text('line one\nthe cause\n')
        return subprocess.Popen([sys.executable, '-c', f'raise SystemExit({int(run.label == state["fail"])})'])

    def finish(run):
        state['events'].append(('end', run.row['config'], run.seed))
        error = state['errors'].get((run.row['config'], run.seed), 10.0)
        (run.work_dir / 'result.json').write_text(json.dumps(dict(error=error)))

    monkeypatch.setattr(reproduce.Run, 'start', start)
    monkeypatch.setattr(reproduce.Run, 'finish', finish)
    return state


def test_every_row_has_its_seeds_and_its_teacher(recipe, tmp_path):
    runs = plan(recipe, tmp_path)
    assert [(run.row['config'], run.seed) for run in runs] == [(TEACHER, 7)] + [
        (config, seed) for config in (STUDENT, AT) for seed in (0, 1, 2)]
    assert len({run.work_dir for run in runs}) == 7
    assert {run.teacher for run in runs if run.row['config'] == AT} == {runs[0].work_dir}
    assert not any(run.teacher for run in runs if run.row['config'] != AT)


def test_fewer_seeds(recipe, tmp_path):
    assert [run.seed for run in plan(recipe, tmp_path, 2)] == [7, 0, 1, 0, 1]


def test_a_teacher_that_is_no_row_is_refused(recipe, tmp_path):
    recipe.rows[2].teacher = STUDENT + 'x'
    with pytest.raises(ValueError, match=f"teacher '{STUDENT}x' of row 'with AT'.*{TEACHER}"):
        plan(recipe, tmp_path)


def test_a_misspelt_config_is_refused_before_anything_runs(recipe, tmp_path):
    recipe.rows[1].config = STUDENT.replace('digits', 'digit')
    with pytest.raises(FileNotFoundError, match=STUDENT):
        plan(recipe, tmp_path)


@pytest.mark.parametrize('jobs', [1, 3])
def test_students_wait_for_their_teacher(recipe, tmp_path, training, jobs):
    execute(plan(recipe, tmp_path), jobs, report=lambda line: None)
    events = training['events']
    assert len(events) == 14
    taught = [events.index(('start', AT, seed)) for seed in (0, 1, 2)]
    assert min(taught) > events.index(('end', TEACHER, 7))


def test_what_is_done_is_not_done_again(recipe, tmp_path, training):
    runs = plan(recipe, tmp_path, 1)
    execute(runs, 1, report=lambda line: None)
    training['events'].clear()
    (runs[1].work_dir / 'result.json').unlink()
    (runs[1].work_dir / 'train.log').unlink()
    runs[1].work_dir.rmdir()
    execute(plan(recipe, tmp_path, 1), 1, report=lambda line: None)
    assert training['events'] == [('start', STUDENT, 0), ('end', STUDENT, 0)]


def test_a_failed_run_is_told_with_the_end_of_its_log(recipe, tmp_path, training):
    training['fail'] = 'student, seed 1'
    with pytest.raises(RuntimeError, match='student, seed 1 failed.*(?s:.)*the cause'):
        execute(plan(recipe, tmp_path), 1, report=lambda line: None)


def test_the_table_by_hand(recipe, tmp_path, training):
    training['errors'] = {(TEACHER, 7): 1.5, (STUDENT, 0): 20.0, (STUDENT, 1): 30.0, (STUDENT, 2): 21.0,
                          (AT, 0): 12.0, (AT, 1): 15.25, (AT, 2): 18.0}
    runs = plan(recipe, tmp_path)
    execute(runs, 2, report=lambda line: None)
    assert table(recipe, runs).splitlines()[2:] == [
        f'| teacher | {TEACHER} | 1.50 | 1.50 to 1.50 | 7: 1.50 |',
        f'| student | {STUDENT} | 21.00 | 20.00 to 30.00 | 0: 20.00, 1: 30.00, 2: 21.00 |',
        f'| with AT | {AT} | 15.25 | 12.00 to 18.00 | 0: 12.00, 1: 15.25, 2: 18.00 |',
    ]


def test_the_error_is_that_of_the_last_epoch(recipe, tmp_path):
    run = plan(recipe, tmp_path)[1]
    log = run.work_dir / '20260101_000000' / 'vis_data'
    log.mkdir(parents=True)
    (log / 'scalars.json').write_text('{"loss": 1.0, "step": 3}\n{"accuracy/top1": 87.5, "step": 60}\n')
    (run.work_dir / 'epoch_60.pth').write_bytes(b'')
    assert run.error is None
    run.finish()
    assert run.error == 12.5
    assert json.loads((run.work_dir / 'result.json').read_text()) == dict(
        config=STUDENT, seed=0, epochs=60, error=12.5, checkpoint=str(run.work_dir / 'epoch_60.pth'))


def test_the_recipes_of_the_repository_can_be_planned(tmp_path):
    recipes = sorted((Path(__file__).parents[2] / 'recipes').glob('*.py'))
    assert recipes
    for path in recipes:
        recipe = Config.fromfile(path)
        assert recipe.title and recipe.note
        assert plan(recipe, tmp_path)
