"""The content of reports, compared with numbers by hand and read with an HTML parser."""
import csv
import hashlib
import html
import json
import re
import shlex
import shutil
import sys
from xml.etree import ElementTree

import pytest
from report_tables import (
    RESULT,
    VERSIONS,
    begin,
    fail,
    finish,
    finish_all,
    half_done,
    make_recipe,
    make_runs,
    markdown_table,
    report,
    training,
    two_rows,
    write_config,
)

from mmat.reproduce.report import results_table
from mmat.reproduce.results import read_csv, shared_batches_note


@pytest.fixture
def table(tmp_path):
    return half_done(tmp_path)


def test_numbers_by_hand(table):
    page, text = report(*table)
    # Errors: 10, 9, 7.5 for the student; 6.5, 6, 7 for the teacher; 7 for the only AT run.
    cells = [content for _, content in page.find('div', 'content')]
    assert cells[0] == '9.007.50 to 10.003 seedspublished 8.77 +0.23'
    assert cells[1] == '7.001 of 3 seeds; 2 waitingpublished 7.93 \N{MINUS SIGN}0.93'
    assert cells[2] == '6.506.00 to 7.003 seedspublished 6.31 +0.19'
    assert cells[3] == cells[0]
    assert cells[4:] == ['—waitingpublished 8.25', '—waiting']
    assert page.texts('th')[:4] == ['student', 'AT', 'teacher', 'from big']
    rows = {(row[0], row[1]): row[2:] for row in markdown_table(text)[1:6]}
    assert rows == {
        ('**from big**', 'published'): ['8.77', '7.93', '6.31'],
        ('', 'measured: median'): ['9.00', '7.00', '6.50'],
        ('', 'min to max'): ['7.50 to 10.00', '', '6.00 to 7.00'],
        ('', 'seeds'): ['3 seeds', '1 of 3 seeds; 2 waiting', '3 seeds'],
        ('', 'difference'): ['+0.23', '\N{MINUS SIGN}0.93', '+0.19']}
    for shown in (text, page.texts('div', 'status')[0]):
        assert re.search(r'\b7 of 15 .*\b8 waiting\b.*\b7 h 14 min\b', shown)
    with open(table[2] / 'results.csv', newline='') as file:
        values = [(row['row'], row['column'], row['seed'], row['value']) for row in csv.DictReader(file)]
    assert values[:3] == [('from big', 'student', *each) for each in (('0', '10'), ('1', '9'), ('2', '7.5'))]
    assert len(values) == 10


def test_a_zero_difference_has_no_sign(tmp_path):
    recipe = make_recipe([dict(row='one', column='error', config=write_config(tmp_path, 'one'), published=9.999)])
    runs = make_runs(recipe, tmp_path / 'table')
    finish_all(runs, {'one': [90.002, 90.002, 90.002]})
    page, text = report(recipe, runs, tmp_path / 'table')
    assert page.texts('span', 'difference') == ['0.00'] and markdown_table(text)[1][-1] == '0.00'
    # A single result is not marked as best.
    assert not page.find('strong')


def test_every_field_of_the_provenance(table):
    recipe, runs, work_dir = table
    page, text = report(*table)
    run, teacher = runs['small_at-big'][0], runs['big'][0]
    wanted = [
        'small_at-big', '7.00 %', 'small_at-big/seed0/epoch_10.pth',
        hashlib.sha256(b'small_at-big, seed 0').hexdigest(), hashlib.sha256(b'big, seed 0').hexdigest(),
        'big, seed 0', RESULT['commit'], *(f'{name} {version}' for name, version in VERSIONS.items()),
        RESULT['hardware'], RESULT['precision'], '1 h 2 min', RESULT['date']]
    folded = [content for _, content in page.find('details') if 'small_at-big' in content]
    assert len(folded) == 1
    line = ' '.join(next(row for row in markdown_table(text, 1) if 'AT' in row))
    for value in wanted:
        assert value in folded[0] and value in line.replace('\\', ''), value
    fields = ('config', 'seed', 'error', 'checkpoint', 'SHA-256', 'teacher', 'teacher SHA-256', 'epochs', 'precision',
              'hardware', 'commit', 'versions', 'wall time', 'attempts', 'date')
    assert set(fields) <= {*page.texts('dt'), *page.texts('th')} and set(fields) <= {*markdown_table(text, 1)[0]}
    # Common fields appear once, the others for each seed.
    student = next(content for _, content in page.find('details') if content.startswith('student'))
    assert student.count(RESULT['commit']) == 1
    assert all(hashlib.sha256(f'small, seed {seed}'.encode()).hexdigest() in student for seed in range(3))
    for shown in (folded[0], text):
        assert sys.executable not in shown
        command = next(line for line in re.findall(r'python tools.*?(?=python tools|```|$)', shown, re.S)
                       if 'small_at-big/seed0' in line)
        words = shlex.split(command)
        assert words[:2] == ['python', 'tools/train.py'] and words[2] == run.config
        assert words[words.index('--seed') + 1] == '0'
        assert words[words.index('--work-dir') + 1] == 'work_dirs/table/small_at-big/seed0'
        assert 'model.teacher.checkpoint=work_dirs/table/big/seed0' in words
        assert str(work_dir) not in command
    assert teacher.label in folded[0]


def test_the_page_makes_no_requests(table):
    page, _ = report(*table)
    for tag, attributes, _ in page.elements:
        assert tag not in ('script', 'link', 'iframe', 'object', 'embed', 'base', 'form')
        for name, value in attributes.items():
            assert name not in ('href', 'srcset', 'action', 'xlink:href') and not name.startswith('on')
            assert name != 'src' or value.startswith('data:image/png;base64,')
            assert 'url(' not in (value or '')
    for style in page.texts('style'):
        assert 'url(' not in style and '@import' not in style and 'http' not in style
    policy = next(attributes['content'] for attributes, _ in page.find('meta')
                  if attributes.get('http-equiv') == 'Content-Security-Policy')
    assert policy.startswith("default-src 'none';") and 'script-src' not in policy


def test_the_page_is_accessible(table):
    page, _ = report(*table)
    assert page.elements[0][1] == {'lang': 'en'} and len(page.find('h1')) == 1 and len(page.find('caption')) == 1
    levels = [int(tag[1]) for tag, *_ in page.elements if re.fullmatch('h[1-6]', tag)]
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    scopes = [attributes.get('scope') for attributes, _ in page.find('th')]
    assert scopes.count('row') == 2 and scopes.count('col') >= 3 and None not in scopes
    assert all(attributes['alt'] for attributes, _ in page.find('img'))
    for attributes, content in page.find('svg'):
        assert attributes.get('aria-hidden') or attributes['role'] == 'img' and content
    # The keyboard reaches everything that scrolls.
    assert all(attributes.get('tabindex') == '0' for attributes, _ in page.find('div', 'scroll'))


HOSTILE = '<script>alert(1)</script> "\'><img src=x onerror=alert(2)> </style> & | ` ``` *x* $\\frac \x1b[31mred\x07'
SHOWN = '<script>alert(1)</script> "\'><img src=x onerror=alert(2)> </style> & | ` ``` *x* $\\frac red'


def test_strings_are_escaped(tmp_path):
    configs = [write_config(tmp_path / 'configs', name) for name in ('one', 'two')]
    recipe = make_recipe([dict(row=HOSTILE, column=column, config=config) for column, config in zip(
        (HOSTILE, 'b' * 200), configs)], title=HOSTILE, note=HOSTILE)
    runs = make_runs(recipe, tmp_path / 'table')
    for run in runs['one']:
        finish(run, 90, hardware=HOSTILE, commit=HOSTILE)
    fail(runs['two'][0], [HOSTILE, '```', HOSTILE])
    page, text = report(recipe, runs, tmp_path / 'table', HOSTILE)
    assert not page.find('script') and not page.find('img')
    shown = ' '.join(SHOWN.split())
    assert page.texts('h1') == page.texts('title')[:1] == [shown] and page.texts('p', 'note') == [shown]
    assert [content for attributes, content in page.find('th') if attributes.get('scope') == 'row'] == [shown]
    assert page.texts('pre')[-1] == f'{shown} ``` {shown}'
    assert any(content.count(shown) >= 2 for content in page.texts('details'))
    # Outside of code blocks and inline code, which need no escaping.
    outside = re.sub(r'(?ms)^(`{3,})\w*\n.*?^\1$', '', text)
    outside = re.sub(r'(?<![`\\])(`+)(?!`).*?(?<!`)\1(?!`)', '', outside)
    assert '<script' not in outside and '<img' not in outside and '&lt;script&gt;' in outside
    for index in range(2):
        markdown_table(text, index)  # as many cells in each line
    svg = (tmp_path / 'table' / 'curves.svg').read_text()
    assert ElementTree.fromstring(svg).tag.endswith('svg') and '<script' not in svg


@pytest.mark.parametrize('scale, headline', [(0.2, 'Shortened'), (2, 'Changed'), (1, None)])
def test_shortened_runs_are_marked(scale, headline, tmp_path):
    recipe = make_recipe(two_rows(tmp_path / 'configs'))
    runs = make_runs(recipe, tmp_path / 'table', scale=scale)
    finish_all(runs, {'small': [90, 91, 92.5]})
    page, text = report(recipe, runs, tmp_path / 'table')
    if headline is None:
        assert not page.find('aside', 'banner') and '>' not in text.replace('</', '').split('## Results')[0]
        assert '+0.23' in page.texts('span', 'difference') and not page.find('span', 'void') and '†' not in text
        return
    banner, = page.texts('aside', 'banner')
    epochs = round(10 * scale)
    for shown in (banner, text.split('## Results')[0]):
        assert re.search(rf'(?s){headline}\b.*\bpublished\D*{epochs} epochs\b.*\b10: all runs\b', shown)
        assert f'train_cfg.max_epochs={epochs}' in shown
    assert set(page.texts('span', 'void')) == {'+0.23†'} == set(page.texts('span', 'difference'))
    assert '\n- † ' in text and '† ' in page.texts('ul', 'legend')[0] and '| +0.23† |' in text


def share(run, together, batch_seed=0):
    """Record that the run was trained together with others."""
    record = {**run.record, 'batch_seed': batch_seed}
    record['attempts'][-1]['seeds'] = together
    (run.work_dir / 'run.json').write_text(json.dumps(record))
    change_result(run, batch_seed=batch_seed)


def shared_note(work_dir):
    return shared_batches_note(read_csv(work_dir / 'results.csv'))


def test_shared_batches(table):
    """The record of the runs counts, not the options of the report."""
    recipe, runs, work_dir = table
    for run in runs['small']:
        share(run, [0, 1, 2])
    page, text = report(*table)
    note = shared_note(work_dir)
    assert re.search(r'\b0 to 2\b.*\bsmall\b', note) and note in text and note in page.texts('ul', 'legend')[0]
    student = next(content for _, content in page.find('details') if content.startswith('student'))
    assert student.count('shared, seed 0') == 1 and len(re.findall(r'1 h 2 min \(share .*? 3 seeds\)', student)) == 3
    assert '--seed 2 --batch-seed 0 --resume' in student and text.count('--batch-seed 0') == 3
    teacher = next(content for _, content in page.find('details') if content.startswith('teacher'))
    assert ' share' not in teacher and '--batch-seed' not in teacher
    with open(work_dir / 'results.csv', newline='') as file:
        assert [row['batch_seed'] for row in csv.DictReader(file)] == ['0', '0', '0', '', '', '', '', '0', '0', '0']
    assert note in results_table('a_table', recipe, runs, work_dir)
    # Started in two ways. If all configs share batches, the note names none.
    attempts = runs['small'][1].record['attempts']
    share(runs['small'][1], [0, 1])
    (runs['small'][1].work_dir / 'run.json').write_text(json.dumps(
        {**runs['small'][1].record, 'attempts': [*attempts, dict(started=3., ended=4.)]}))
    for run in runs['big']:
        share(run, [0, 1, 2])
    page, text = report(*table)
    note = shared_note(work_dir)
    assert f'\n- {note}' in text and '0 to 2' in note and 'small' not in note
    assert re.search(r'share .* 1 or 3 seeds', text)


def test_separate_batches_are_not_mentioned(table):
    _, text = report(*table)
    assert ' batches' not in text and '--batch-seed' not in text
    assert ' batches' not in results_table('a_table', *table)


def test_planned_shared_batches(table):
    recipe, runs, work_dir = table
    for run in runs['deep']:
        shutil.rmtree(run.work_dir)
        run.batch_seed = 0
    page, _ = report(*table)
    assert sum(content.count('--batch-seed 0') for _, content in page.find('details')) == 3


def test_seeds_that_failed_together_are_one_failure(table):
    for run in table[1]['deep']:
        run.batch_seed = 0
        fail(run, ['the cause'], 3)
    page, text = report(*table)
    assert text.count('the cause') == 1 and '### deep, seeds 0, 1, 2: exit status 3\n\n```\nthe cause\n```' in text
    failed, = page.texts('section', 'failed-runs')
    assert failed.endswith('deep, seeds 0, 1, 2exit status 3the cause')


def test_no_column_without_numbers_in_print(tmp_path):
    cells = [dict(row=name, column='error', config=write_config(tmp_path, name)) for name in ('one', 'two')]
    recipe = make_recipe(cells)
    runs = make_runs(recipe, tmp_path / 'table', scale=0.5)
    finish_all(runs, {'one': [90, 91, 92.5]})
    page, text = report(recipe, runs, tmp_path / 'table')
    assert markdown_table(text) == [
        ['', 'error, %: median', 'min to max', 'seeds'], ['one', '9.00', '7.50 to 10.00', '3 seeds'],
        ['two', '', '', 'waiting']]
    assert 'ublished' not in text and 'ublished' not in ' '.join(page.texts('main'))
    assert '\n> **Shortened' in text
    assert page.texts('div', 'content') == ['9.00', '7.50 to 10.00', '3 seeds', '—', '—', 'waiting']


def test_no_finished_runs(tmp_path):
    recipe = make_recipe(two_rows(tmp_path / 'configs'))
    runs = make_runs(recipe, tmp_path / 'table')
    page, text = report(recipe, runs, tmp_path / 'table')
    assert re.search(r'\b0 of 15 .*\b15 waiting\b', text) and not re.search(r'\d (h|min|s)\b', text)
    assert page.texts('h2') == ['Results'] and re.findall('^## .*', text, re.M) == ['## Results']
    assert (tmp_path / 'table' / 'results.csv').read_text().count('\n') == 1
    assert not list((tmp_path / 'table').glob('*.svg')) + list((tmp_path / 'table').glob('*.png'))


def test_the_state_of_each_run(table):
    recipe, runs, work_dir = table
    at, deep, student_of_deep = runs['small_at-big'], runs['deep'], runs['small_at-deep']
    begin(at[1], training([50, 60, 70]))
    begin(at[2])
    (at[2].work_dir / 'lock').touch()
    fail(deep[0], ['ValueError: no <data>'], -9)
    before = {path for path in work_dir.rglob('*') if path.is_file()}
    with at[1].lock():  # as its training process does
        page, text = report(*table)
    words = page.texts('span', 'seeds')
    assert words[1] == '1 of 3 seeds; 1 running (epoch 3 of 10), 1 interrupted'
    assert words[4] == '0 of 3 seeds; 3 blocked'
    assert words[5] == '0 of 3 seeds; 1 failed, 2 waiting'
    assert student_of_deep[0].record['attempts'] == []
    assert re.search(r'\b7 of 15 .*\b1 running, 1 failed, 1 interrupted, 3 blocked, 2 waiting\.', text)
    failed, = page.texts('section', 'failed-runs')
    assert re.search('deep, seed 0.*SIGKILLValueError: no <data>$', failed)
    assert re.search('\n### deep, seed 0: .*SIGKILL\n\n```\nValueError: no <data>\n```', text)
    # Reports create no lock files.
    there = {path for path in work_dir.rglob('*') if path.is_file()}
    assert {path.name for path in there - before} <= {
        'lock', 'report.html', 'report.md', 'results.csv', 'curves-1.svg', 'curves-2.svg'}
    assert [path.parent for path in there - before if path.name == 'lock'] == [at[1].work_dir]


def test_unselected_configs_are_marked(tmp_path):
    recipe = make_recipe(two_rows(tmp_path / 'configs'))
    runs = make_runs(recipe, tmp_path / 'table', only=['small'])
    finish_all(runs, {'small': [90, 91, 92.5]})
    page, text = report(recipe, runs, tmp_path / 'table')
    assert page.texts('span', 'seeds') == ['3 seeds', 'not selected', 'not selected'] * 2
    assert markdown_table(text)[4] == ['', 'seeds', '3 seeds', 'not selected', 'not selected']


@pytest.mark.parametrize('measure, student, at, best', [
    ('error', [90, 91, 92], [93, 94, 95], '6.00'),
    ('accuracy', [90, 91, 92], [93, 94, 95], '94.00'),
    ('error', [93, 94, 95], [90, 91, 92], '6.00'),
    # One seed of AT equals one of the student.
    ('error', [90, 91, 92], [92, 94, 95], None),
    # Two seeds are too few.
    ('error', [90, 91], [93, 94], None),
    # One seed is missing.
    ('error', [90, 91, 92], [93, 94], None),
])
def test_bold_results_are_better_in_every_seed(measure, student, at, best, tmp_path):
    recipe = make_recipe(two_rows(tmp_path / 'configs')[:3], measure=measure, seeds=tuple(range(len(student))))
    runs = make_runs(recipe, tmp_path / 'table')
    # The teacher is better than both, but excluded.
    finish_all(runs, {'small': student, 'big': [97, 97, 97], 'small_at-big': at})
    page, text = report(recipe, runs, tmp_path / 'table')
    assert page.texts('strong') == ([best] if best else [])
    assert [cell for cell in markdown_table(text)[2] if '**' in cell] == ([f'**{best}**'] if best else [])
    assert ('Bold:' in text) == (best is not None)
    assert ('lower' if measure == 'error' else 'higher') + ' is better' in text


def test_consistent_runs_have_no_warnings(table):
    page, text = report(*table)
    assert not page.find('aside') and '## Warnings' not in text


def test_fields_that_differ_are_shown_for_each_seed(table):
    change_result(table[1]['small'][1], hardware='a GPU')
    page, _ = report(*table)
    student = next(content for _, content in page.find('details') if content.startswith('student'))
    assert student.count('a GPU') == 1 and student.count(RESULT['hardware']) == 2


def change_result(run, **changes):
    path = run.work_dir / 'result.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize('change, parts', [
    (lambda runs: change_result(runs['small_at-big'][0], teacher_sha256='f' * 64),
     ['small_at-big, seed 0', 'teacher big, seed 0', 'ffffffffffff…', '{big}…']),
    # The teacher was trained again, so its result has another hash than the student's.
    (lambda runs: (change_result(runs['big'][0], checkpoint_sha256='e' * 64),
                   (runs['big'][0].work_dir / 'epoch_10.pth').unlink()),
     ['small_at-big, seed 0', 'teacher big, seed 0', '{big}…', 'eeeeeeeeeeee…']),
    # The teacher's file was replaced.
    (lambda runs: (runs['big'][0].work_dir / 'epoch_10.pth').write_bytes(b'other'),
     ['small_at-big, seed 0', 'teacher big, seed 0', '{big}…', '{other}…']),
    (lambda runs: (runs['big'][0].work_dir / 'result.json').unlink(),
     ['small_at-big, seed 0', 'teacher big, seed 0', 'missing']),
    (lambda runs: (runs['small'][1].work_dir / 'epoch_10.pth').write_bytes(b'other'),
     ['small, seed 1', 'checkpoint', '{small}…', '{other}…']),
    (lambda runs: change_result(runs['small'][1], commit='ba9876543210'),
     ['commit', '0123456789ab (6 runs), ba9876543210 (1 run)']),
    # Started with one commit and resumed with another.
    (lambda runs: change_result(runs['small'][1], commit='0123456789ab, ba9876543210'),
     ['commit', '0123456789ab (7 runs), ba9876543210 (1 run)']),
    (lambda runs: change_result(runs['small'][1], commit='0123456789ab+'), ['1 run', 'uncommitted', '+']),
    (lambda runs: change_result(runs['small'][1], commit=None), ['commit', '0123456789ab (6 runs), none (1 run)']),
    (lambda runs: change_result(runs['small'][1], precision='fp32'),
     ['precision', 'bf16 autocast (6 runs), fp32 (1 run)']),
    (lambda runs: change_result(runs['small'][1], hardware='a GPU'),
     ['hardware', '2 cores of a CPU (6 runs), a GPU (1 run)']),
    (lambda runs: change_result(runs['small'][1], versions={**VERSIONS, 'torch': '2.14.0'}),
     ['torch', '2.15.0 (6 runs), 2.14.0 (1 run)']),
    (lambda runs: (runs['small'][1].work_dir / 'run.json').write_text(
        json.dumps({**runs['small'][1].record, 'config_hash': 'another'})), ['small, seed 1', 'config']),
])
def test_warnings(change, parts, table):
    change(table[1])
    page, text = report(*table)
    digests = {name: hashlib.sha256(content.encode()).hexdigest()[:12] for name, content in dict(
        big='big, seed 0', small='small, seed 1', other='other').items()}
    pattern = re.compile('.*'.join(re.escape(part.format(**digests)) for part in parts))
    section = html.unescape(text).replace('\\', '').split('## Warnings\n\n')[1].split('\n\n')[0]
    assert pattern.search(page.texts('aside', 'warnings')[0])
    assert any(pattern.search(line) for line in section.splitlines())


def test_a_deleted_checkpoint_is_no_warning(table):
    recipe, runs, work_dir = table
    (runs['small'][0].work_dir / 'epoch_10.pth').unlink()
    page, text = report(*table)
    assert not page.find('aside') and 'small/seed0/epoch_10.pth (deleted)' in text
