import json

import pytest
from mmengine.config import Config

from mmat.errors import FileError, MissingFileError
from mmat.reproduce.recipe import plan
from mmat.reproduce.results import COLUMNS, collect, read_csv, shared_batches_note, summarise, write_csv

TEACHER, STUDENT, AT = 'wrn16-2_1xb32_digits', 'wrn16-1_1xb10_digits', 'wrn16-1_at-wrn16-2_1xb10_digits'
VERSIONS = dict(mmat='0.1.0', python='3.11.7', torch='2.15.0', torchvision='0.29.2', mmengine='0.10.7',
                mmpretrain='1.2.0', numpy='2.4.6')


@pytest.fixture
def recipe():
    cell = dict(metric='accuracy/top1', published=None)
    return Config(dict(title='t', note='n', seeds=(0, 1, 2), measure='error', gpus_per_run=1, cells=[
        dict(cell, row='teacher', column='a', config=TEACHER, seeds=(7, )),
        dict(cell, row='student', column='a', config=STUDENT, published=20.5),
        dict(cell, row='AT', column='a', config=AT, teacher=TEACHER),
        dict(cell, row='AT', column='top 5', config=AT, teacher=TEACHER, metric='accuracy/top5')]))


@pytest.fixture
def finish():
    """Write the files of a finished run."""

    def finish(run, accuracy):
        run.prepare()
        (run.work_dir / 'result.json').write_text(json.dumps(dict(
            metrics={'accuracy/top1': accuracy, 'accuracy/top5': accuracy + 1}, epochs=run.epochs, precision='fp32',
            checkpoint='epoch_3.pth', checkpoint_sha256=f'{accuracy:.0f}', teacher_sha256=run.teacher and 'abc',
            wall_time=12, attempts=2, date='2026-11-21', hardware='2 cores of X', commit='c0ffee', versions=VERSIONS)))

    return finish


@pytest.fixture
def rows(recipe, tmp_path, finish):
    plans = plan(recipe, tmp_path, scale=0.05)
    finish(plans[TEACHER][0], 99.)
    for run, accuracy in zip(plans[STUDENT], (80., 70., 79.00001)):
        finish(run, accuracy)
    for run, accuracy in zip(plans[AT], (88., 82.25)):  # the third is unfinished
        finish(run, accuracy)
    return collect('digits', recipe, plans)


def test_a_row_for_each_cell_and_finished_seed(rows):
    assert [(row['row'], row['column'], row['seed'], row['value']) for row in rows] == [
        ('teacher', 'a', 7, 1.0), ('student', 'a', 0, 20.0), ('student', 'a', 1, 30.0), ('student', 'a', 2, 21.0),
        ('AT', 'a', 0, 12.0), ('AT', 'a', 1, 17.75), ('AT', 'top 5', 0, 11.0), ('AT', 'top 5', 1, 16.75)]
    assert all(tuple(row) == COLUMNS for row in rows)


def test_a_row_records_its_origin(rows):
    assert rows[4] == dict(
        VERSIONS, recipe='digits', row='AT', column='a', published=None, measure='error', value=12.0,
        metric='accuracy/top1', config=AT, seed=0, batch_seed=None, epochs=3, planned_epochs=60, processes=1,
        precision='fp32', options='train_cfg.max_epochs=3 param_scheduler.milestones=[1,2,2]', teacher=TEACHER,
        teacher_seed=7,
        teacher_sha256='abc', checkpoint_sha256='88', commit='c0ffee', hardware='2 cores of X', wall_time=12,
        attempts=2, date='2026-11-21')
    assert rows[1]['teacher'] is rows[1]['teacher_seed'] is rows[1]['teacher_sha256'] is None


def test_accuracies_if_the_recipe_asks_for_them(recipe, tmp_path, finish):
    recipe.measure = 'accuracy'
    plans = plan(recipe, tmp_path, only=[TEACHER])
    finish(plans[TEACHER][0], 98.7654321)
    row, = collect('digits', recipe, plans)
    assert row['value'] == 98.7654 and row['measure'] == 'accuracy'


def test_nothing_is_measured_yet(recipe, tmp_path):
    assert collect('digits', recipe, plan(recipe, tmp_path)) == []
    assert summarise([]) == {}


def test_the_summary_by_hand(rows):
    summaries = summarise(rows)
    assert list(summaries) == [('teacher', 'a'), ('student', 'a'), ('AT', 'a'), ('AT', 'top 5')]
    assert summaries['student', 'a'] == dict(
        values={0: 20.0, 1: 30.0, 2: 21.0}, median=21.0, min=20.0, max=30.0, published=20.5, difference=0.5,
        config=STUDENT, epochs=3, planned_epochs=60)
    # The median of two is their mean.
    assert summaries['AT', 'a']['median'] == 14.875 and summaries['AT', 'a']['difference'] is None
    assert summaries['teacher', 'a']['values'] == {7: 1.0}


def test_rows_are_read_back(rows, tmp_path):
    rows[0]['row'] = 'a "row", of two\nlines: ü'
    write_csv(rows, tmp_path / 'results' / 'digits.csv')
    assert read_csv(tmp_path / 'results' / 'digits.csv') == rows
    text = (tmp_path / 'results' / 'digits.csv').read_bytes()
    assert text.startswith(','.join(COLUMNS).encode() + b'\n') and b'\r' not in text
    write_csv([], tmp_path / 'empty.csv')
    assert read_csv(tmp_path / 'empty.csv') == []


@pytest.mark.parametrize('header', ['', 'row,column\n', ','.join(COLUMNS[:-1]) + '\n', ','.join(COLUMNS[::-1]) + '\n'])
def test_other_columns_are_refused(tmp_path, header):
    (tmp_path / 'x.csv').write_text(header)
    with pytest.raises(FileError, match="x.csv'.*batch_seed"):
        read_csv(tmp_path / 'x.csv')


def test_an_older_file_without_batch_seeds(rows, tmp_path):
    for row in rows:
        row['options'] = None  # they contain a comma
    write_csv(rows, tmp_path / 'x.csv')
    lines = [line.split(',') for line in (tmp_path / 'x.csv').read_text().splitlines() if '"' not in line]
    assert lines[0][8:10] == ['seed', 'batch_seed'] and all(line[9] == '' for line in lines[1:])
    (tmp_path / 'x.csv').write_text(''.join(','.join(line[:9] + line[10:]) + '\n' for line in lines))
    assert read_csv(tmp_path / 'x.csv') == rows and tuple(read_csv(tmp_path / 'x.csv')[0]) == COLUMNS


def test_shared_batches_are_in_the_row(recipe, tmp_path, finish):
    runs = plan(recipe, tmp_path, share_batches=True)[STUDENT]
    for run in runs:
        finish(run, 80.)
    # The batch seed of the result is used, not the planned one.
    for run, batch_seed in zip(runs, (7, 0)):
        result = {**run.result, 'batch_seed': batch_seed}
        (run.work_dir / 'result.json').write_text(json.dumps(result))
    rows = collect('digits', recipe, dict(plan(recipe, tmp_path), **{STUDENT: runs}))
    assert [row['batch_seed'] for row in rows] == [7, 0, None]
    write_csv(rows, tmp_path / 'x.csv')
    assert [row['batch_seed'] for row in read_csv(tmp_path / 'x.csv')] == [7, 0, None]


def seeds_of(config, *batches):
    return [dict(config=config, seed=seed, batch_seed=batch_seed) for seed, batch_seed in enumerate(batches)]


@pytest.mark.parametrize('rows, expected', [
    ([], ''),
    (seeds_of('a', None, None, None), ''),
    (seeds_of('a', 0), ''),  # a single seed has no spread
    (seeds_of('a', 0, 0, 0, 0, 0), 'Seeds 0 to 4'),
    (seeds_of('a', 0, 0), 'Seeds 0 and 1'),
    (seeds_of('a', 0, None, 0, 0), 'Seeds 0, 2 and 3'),
    (seeds_of('a', 0, 0, 0) * 2 + seeds_of('teacher', None), 'Seeds 0 to 2'),
    (seeds_of('a', 0, 0, 0) + seeds_of('b', None, None), 'Seeds 0 to 2 of a'),
    (seeds_of('a', 0, 0, 0) + seeds_of('b', 0, 0) + seeds_of('c', 1, 1, 1), 'Seeds 0 to 2 of a, c; seeds 0 and 1 of b'),
])
def test_the_note_on_shared_batches_names_the_seeds(rows, expected):
    note = shared_batches_note(rows)
    assert note.startswith(f'{expected} share ') if expected else note == ''


def test_no_such_file(tmp_path):
    with pytest.raises(MissingFileError, match='x.csv'):
        read_csv(tmp_path / 'x.csv')
