"""Recording a table's runs in the repository changes all files or none."""
import copy
import functools
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from finished_table import ACCURACIES, ROOT, STUDENT, TAUGHT, TEACHER, change, files_of, make_checkout, make_runs
from mmengine.config import Config
from tool_runner import fails, run_tool

import mmat
from mmat.errors import CheckpointError, ConfigError, MissingFileError, UserError
from mmat.models import build_network
from mmat.registry import DATASETS
from mmat.reproduce import record_results as recording
from mmat.reproduce import weights
from mmat.reproduce.metafile import set_training
from mmat.reproduce.readme_tables import fill_tables, update_pages
from mmat.reproduce.record_results import read_table, record_results
from mmat.reproduce.results import read_csv, shared_batches_note
from mmat.reproduce.run import Run, open_run
from mmat.utils.zoo import fetch_weights

read_config = Config.fromfile
read_cached = functools.lru_cache(read_config)


@pytest.fixture(autouse=True)
def cached_configs(monkeypatch):
    """Cache the repository's configs: reading them takes most of the time."""
    monkeypatch.setattr(Config, 'fromfile', lambda path: copy.deepcopy(
        read_cached(path) if Path(path).is_relative_to(ROOT) else read_config(path)))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp('trained'))


@pytest.fixture
def work_dir(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / 'runs'))


@pytest.fixture
def root(tmp_path):
    return make_checkout(tmp_path / 'checkout')


@pytest.fixture
def tested(monkeypatch):
    """Replace testing: (config, precision) -> difference from the run's accuracy."""
    added = {}

    def measure(run, checkpoint, metric):
        return round(run.result['metrics'][metric], 4) + added.get((run.name, checkpoint.parent.name), 0)

    monkeypatch.setattr(weights, 'measure_accuracy', measure)
    return added


def read(root, work_dir, scale=1.):
    return read_table(str(root / 'recipes' / 'tiny.py'), work_dir, scale)


def entries(root):
    return {entry['Name']: entry for path in root.glob('configs/*/metafile.yml')
            for entry in yaml.safe_load(path.read_text())['Models']}


def index(root):
    return {row['config']: row for row in weights.read_index(root)}


# Recorded files

def test_a_table_is_recorded(root, work_dir, tested):
    before = {path: path.read_text() for path in root.glob('configs/*/metafile.yml')}
    expected = entries(root)
    lines = record_results(read(root, work_dir), root)
    assert lines[-1] == 'results/tiny.csv: 9 rows' and len(lines) == 4

    rows = read_csv(root / 'results' / 'tiny.csv')
    assert {(row['config'], row['seed']): row['value'] for row in rows} == {
        (name, seed): round(100 - value, 4) for name, seeds in ACCURACIES.items() for seed, value in seeds.items()}
    for name, seed in ((TEACHER, 0), (STUDENT, 2), (TAUGHT, 0)):
        row = index(root)[name]
        path = root / 'checkpoints' / row['file']
        assert (row['seed'], row['precision'], row['results']) == (seed, 'float16', 'tiny')
        assert row['accuracy'] == ACCURACIES[name][seed] and row['bytes'] == path.stat().st_size
        assert re.fullmatch(rf'{name}_20260102-[0-9a-f]{{8}}\.pth', path.name)
        assert row['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest() and fetch_weights(path)
        source = work_dir / name / f'seed{seed}' / f'epoch_{10 if name == TEACHER else 60}.pth'
        assert row['checkpoint_sha256'] == hashlib.sha256(source.read_bytes()).hexdigest()
        network, state = mmat.get_model(name, pretrained=path), torch.load(source)['state_dict']
        assert all(torch.equal(value, state[key].half().to(value.dtype)) if value.is_floating_point() else True
                   for key, value in network.state_dict().items())
        expected[name]['Results'] = [dict(Dataset='Digits', Metrics={'Top 1 Accuracy': ACCURACIES[name][seed]},
                                      Task='Image Classification')]
        expected[name].update({'Weights': f'checkpoints/{path.name}',
                           'Training Log': f'checkpoints/{path.name[:-4]}.log.json'})
        expected[name]['Metadata'].update(Seed=seed, Epochs=10 if name == TEACHER else 60)
        log = [json.loads(line) for line in (root / expected[name]['Training Log']).read_text().splitlines()]
        assert log[-1] == {'accuracy/top1': ACCURACIES[name][seed], 'step': expected[name]['Metadata']['Epochs']}
    assert entries(root) == expected
    text = (root / 'configs' / 'wide_resnet' / 'metafile.yml').read_text()
    for comment in (r'Seed 0\b.*', r'Seed 2\b.*\b0, 1, 2\b.*'):
        assert re.search(rf'^    # {comment} results/tiny\.csv\.\n    Results:', text, re.MULTILINE)
    # Other entries keep their text, with comments and empty lines.
    for path, old in before.items():
        blocks = [{block.split('\n')[0]: block.rstrip() for block in text.split('  - Name: ')}
                  for text in (old, path.read_text())]
        assert blocks[0].keys() == blocks[1].keys()
        assert {name for name in blocks[0] if blocks[0][name] != blocks[1][name]} == {
            name for name in (TEACHER, STUDENT, TAUGHT) if name in blocks[0]}


def test_recording_again_changes_nothing_and_a_new_run_replaces_the_old(root, work_dir, tested):
    record_results(read(root, work_dir), root, ['wrn16-1_*'])
    first = files_of(root)
    record_results(read(root, work_dir), root, ['wrn16-1_*'])
    assert files_of(root) == first
    old = index(root)
    for seed in (1, 2):  # so that seed 1 is the median
        change(work_dir / STUDENT / f'seed{seed}' / 'result.json',
               metrics={'accuracy/top1': 79. if seed == 1 else 30.})
    record_results(read(root, work_dir), root, ['wrn16-1_*'])
    assert index(root)[STUDENT]['seed'] == 1 and index(root)[TAUGHT] == old[TAUGHT]
    name = old[STUDENT]['file']
    assert first.keys() - files_of(root).keys() == {f'checkpoints/{name}', f'checkpoints/{name[:-4]}.log.json'}
    assert name not in (root / 'configs' / 'wide_resnet' / 'metafile.yml').read_text()


def test_an_even_number_of_seeds_selects_the_worse_median():
    def rows(measure, values):
        return [dict(config='a', seed=seed, metric='m', measure=measure, value=value, teacher=None, teacher_seed=None)
                for seed, value in enumerate(values)]
    assert weights.select_row(rows('error', (10, 30, 20, 40)), 'a')['seed'] == 1
    assert weights.select_row(rows('accuracy', (10, 30, 20, 40)), 'a')['seed'] == 2
    assert weights.select_row(rows('error', (10, 10, 10)), 'a')['seed'] == 1
    twice = rows('error', (10, 30, 20))
    assert weights.select_row(twice + [dict(row, metric='n', value=-row['value']) for row in twice], 'a')['seed'] == 2


def test_weights_stay_float32_if_rounding_changes_the_accuracy(root, work_dir, tested):
    tested[STUDENT, 'float16'] = -0.01
    # float16 and float32 agree, one image apart from the training.
    tested[TAUGHT, 'float16'] = tested[TAUGHT, 'float32'] = 0.01
    record_results(read(root, work_dir), root, ['wrn16-1_*'])
    assert {name: row['precision'] for name, row in index(root).items()} == {
        STUDENT: 'float32', TAUGHT: 'float16'}
    assert index(root)[TAUGHT]['accuracy'] == ACCURACIES[TAUGHT][0] + 0.01
    state = torch.load(root / 'checkpoints' / index(root)[STUDENT]['file'])['state_dict']
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


def test_weights_outside_the_range_of_float16_stay_float32(root, work_dir, tested):
    path = work_dir / STUDENT / 'seed2' / 'epoch_60.pth'
    content = torch.load(path)
    content['state_dict']['backbone.conv0.weight'][0] = 1e5
    torch.save(content, path)
    change(path.with_name('result.json'), checkpoint_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    record_results(read(root, work_dir), root, [STUDENT])
    assert index(root)[STUDENT]['precision'] == 'float32'


def test_without_weights_metafiles_have_the_medians(root, work_dir, tested):
    record_results(read(root, work_dir), root, [STUDENT])
    shutil.rmtree(work_dir / TAUGHT / 'seed2')
    record_results(read(root, work_dir), root, [])
    assert not weights.read_index(root) and {path.name for path in (root / 'checkpoints').iterdir()} == {
        'index.csv', 'README.md'}
    for name, accuracy in ((TEACHER, 98.5), (STUDENT, 75.), (TAUGHT, 81.62)):
        entry = entries(root)[name]
        assert entry['Results'][0]['Metrics'] == {'Top 1 Accuracy': accuracy}
        assert not {'Weights', 'Training Log', 'Seed'} & {*entry, *entry['Metadata']}
    assert re.search(r'# Median\b.* 0, 1: results/tiny\.csv', (root / 'configs' / 'at' / 'metafile.yml').read_text())


def test_unfinished_runs_are_not_recorded(root, work_dir, tested):
    (work_dir / STUDENT / 'seed2' / 'result.json').unlink()
    shutil.rmtree(work_dir / TAUGHT)
    record_results(read(root, work_dir), root)
    assert index(root).keys() == {TEACHER, STUDENT} and index(root)[STUDENT]['seed'] == 1
    assert len(read_csv(root / 'results' / 'tiny.csv')) == 5


def test_a_shortened_training_is_marked_everywhere(root, tmp_path, tested):
    options = {'train_cfg.max_epochs': 6, 'param_scheduler.milestones': [2, 4]}
    work_dir = make_runs(tmp_path / 'short', {STUDENT: ACCURACIES[STUDENT]}, options, 6)
    planned = json.loads(json.dumps(recording.options_of(
        Config.fromfile(recording.find_config(STUDENT)), 0.1, 1)))
    for path in work_dir.glob('*/*/run.json'):
        change(path, options=planned)
    record_results(read(root, work_dir, 0.1), root)
    row = index(root)[STUDENT]
    assert row['results'] == 'tiny_x0.1' and row['file'].startswith(f'{STUDENT}_6of60e_20260102-')
    assert entries(root)[STUDENT]['Metadata']['Epochs'] == '6 of 60'
    text = (root / 'configs' / 'wide_resnet' / 'metafile.yml').read_text()
    assert re.search(r'# .*\b6 of 60\b.* Seed 2\b.* 0, 1, 2: results/tiny_x0\.1\.csv', text)
    page = root / 'README.md'
    page.write_text(page.read_text().replace('tiny.csv', 'tiny_x0.1.csv'))
    update_pages(root)
    assert re.search(r'\*\*[^*]*\b6 of 60\b[^*]*\*\*', page.read_text())
    assert '--epochs-scale 0.1`' in page.read_text()
    assert '| 6 of 60 | 2 | 75.00 |' in (root / 'checkpoints' / 'README.md').read_text()


# Several tables

def test_checkpoints_from_another_table_stay_unless_selected(root, work_dir, tested):
    record_results(read(root, work_dir), root)
    before, expected = index(root), entries(root)
    (root / 'recipes' / 'tiny.py').rename(root / 'recipes' / 'other.py')
    table = read_table(str(root / 'recipes' / 'other.py'), work_dir)
    lines = record_results(table, root)
    assert any(line.startswith(f'{STUDENT}: ') and f'--weights {STUDENT}' in line for line in lines)
    assert index(root) == before and entries(root) == expected and (root / 'results' / 'other.csv').is_file()
    record_results(table, root, ['*_at-*'])
    assert {name: row['results'] for name, row in index(root).items()} == {
        TEACHER: 'tiny', STUDENT: 'tiny', TAUGHT: 'other'}
    assert entries(root) == expected and 'results/other.csv.' in (root / 'configs' / 'at' / 'metafile.yml').read_text()


def test_weights_of_other_projects_are_kept(root, work_dir, tested):
    path = root / 'configs' / 'wide_resnet' / 'metafile.yml'
    path.write_text(set_training(path.read_text(), STUDENT, dict(Weights='https://a.invalid/b-01234567.pth')))
    expected = entries(root)[STUDENT]
    record_results(read(root, work_dir), root)
    assert entries(root)[STUDENT] == expected and STUDENT not in index(root)
    with pytest.raises(UserError, match=f"'{STUDENT}'"):
        record_results(read(root, work_dir), root, [STUDENT])


# Refused runs

def replaced(path, **values):
    return lambda work_dir: change(work_dir / path, **values)


@pytest.mark.parametrize('damage, error, message', [
    (replaced(f'{STUDENT}/seed1/result.json', commit='0123456789ab+'), UserError,
     f'{STUDENT}, seed 1 .*0123456789ab\\b'),
    (replaced(f'{STUDENT}/seed1/result.json', commit=None), UserError, f'{STUDENT}, seed 1 .*git'),
    (replaced(f'{STUDENT}/seed1/run.json', options={'train_cfg.max_epochs': 6}), ConfigError,
     f"{STUDENT}, seed 1 .*{{'train_cfg.max_epochs': 6}}.*--epochs-scale 1 "),
    (replaced(f'{STUDENT}/seed1/run.json', config_hash='0' * 16), ConfigError, f'config of {STUDENT}, seed 1 '),
    (replaced(f'{TEACHER}/seed0/result.json', checkpoint_sha256='0' * 64), UserError,
     f'teacher of {TAUGHT}, seed 0 .*{TEACHER}, seed 0'),
    (lambda work_dir: (work_dir / STUDENT / 'seed2' / 'epoch_60.pth').write_bytes(b'other'), CheckpointError,
     f'{STUDENT}, seed 2 .*SHA-256.*seed2/epoch_60.pth.*result.json'),
    (lambda work_dir: (work_dir / STUDENT / 'seed2' / 'epoch_60.pth').unlink(), MissingFileError,
     f'{STUDENT}, seed 2 .*seed2/epoch_60.pth.*--weights'),
    (shutil.rmtree, MissingFileError, "'.*/runs'.*tools/reproduce.py .*tiny.py"),
    (lambda work_dir: [path.unlink() for path in work_dir.rglob('result.json')], MissingFileError,
     "tiny.py .*'.*/runs'"),
])
def test_invalid_runs_are_refused_without_any_change(damage, error, message, root, work_dir, tested):
    damage(work_dir)
    before = files_of(root)
    with pytest.raises(error, match=message):
        record_results(read(root, work_dir), root)
    assert files_of(root) == before


@pytest.mark.parametrize('names, message', [([STUDENT[:-1]], f"'{STUDENT[:-1]}'.*'{STUDENT}'"),
                                            (['*'], f'{TEACHER} .*float16.* 1,000,000')])
def test_names_and_sizes(names, message, root, work_dir, tested, monkeypatch):
    monkeypatch.setattr(weights, 'MAX_BYTES', 1_000_000)
    before = files_of(root)
    with pytest.raises(UserError, match=message):
        record_results(read(root, work_dir), root, names)
    assert files_of(root) == before


def test_too_large_checkpoints_are_skipped_unless_selected(root, work_dir, tested, monkeypatch):
    monkeypatch.setattr(weights, 'MAX_BYTES', 1_000_000)
    lines = record_results(read(root, work_dir), root)
    assert any(TEACHER in line and '1,000,000' in line for line in lines)
    assert index(root).keys() == {STUDENT, TAUGHT} and entries(root)[TEACHER]['Results']


def test_the_total_size_is_limited(root, work_dir, tested, monkeypatch):
    monkeypatch.setattr(recording, 'MAX_BYTES_OF_ALL', 700_000)
    table = read(root, work_dir)
    for _ in range(2):  # replaced checkpoints do not count
        record_results(table, root, [STUDENT])
    before = files_of(root)
    with pytest.raises(UserError, match=r' 7\d\d,\d{3} .* 700,000\b.*--weights'):
        record_results(table, root, ['wrn16-1_*'])
    assert files_of(root) == before


def test_a_checkpoint_with_another_accuracy_is_refused(root, work_dir, tested):
    tested[STUDENT, 'float32'] = 0.06
    before = files_of(root)
    with pytest.raises(CheckpointError, match=rf'{STUDENT}, seed 2 .* 75\.06 .* 75\.0 '):
        record_results(read(root, work_dir), root)
    assert files_of(root) == before


def test_a_checkpoint_is_tested_by_the_tool(tmp_path, monkeypatch):
    """Compare with a loop over 40 images."""
    torch.manual_seed(3)
    network = build_network(STUDENT).eval()
    torch.save(dict(state_dict=network.state_dict()), tmp_path / 'a.pth')
    run = Run(tmp_path / STUDENT / 'seed0', STUDENT, 0, 60, {'test_dataloader.dataset.indices': 40})
    dataset = DATASETS.build(dict(type='mmat.Digits', split='test', size=16, indices=40))
    with torch.no_grad():
        right = 0
        for item in dataset:
            batch = network.data_preprocessor(dict(inputs=[item['inputs']], data_samples=[item['data_samples']]))
            right += int(network(batch['inputs'], mode='tensor').argmax() == item['data_samples'].gt_label)

    def in_this_process(command, **kwargs):
        assert command[0] == sys.executable and Path(command[1]) == ROOT / 'tools' / 'test.py'
        code, _ = run_tool('test.py', *command[2:])
        return subprocess.CompletedProcess(command, bool(code), '', f'Some warning\n{code}\n')

    monkeypatch.setattr(weights, 'subprocess', SimpleNamespace(run=in_this_process))
    assert weights.measure_accuracy(run, tmp_path / 'a.pth', 'accuracy/top1') == 100 * right / 40
    (tmp_path / 'a.pth').write_bytes(b'?')
    with pytest.raises(UserError, match=f'{STUDENT}, seed 0 .*a.pth'):
        weights.measure_accuracy(run, tmp_path / 'a.pth', 'accuracy/top1')
    # A crash of the tool keeps its traceback.
    crash = 'Traceback (most recent call last):\n  File "a.py"\nKeyError: 1'
    monkeypatch.setattr(weights, 'subprocess', SimpleNamespace(
        run=lambda command, **kwargs: subprocess.CompletedProcess(command, 1, '', crash)))
    with pytest.raises(RuntimeError, match='(?s)Traceback.*KeyError: 1'):
        weights.measure_accuracy(run, tmp_path / 'a.pth', 'accuracy/top1')


# Logs

def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_merged_log_has_repeated_epochs_once(work_dir):
    run = open_run(work_dir / TEACHER / 'seed0')
    assert [line['step'] for line in lines_of(weights.merge_logs(run))] == [
        step for epoch in range(1, 11) for step in (5 * epoch, epoch)]
    # Resumed after epoch 8, killed before the last validation.
    again = run.work_dir / '20260103_000000' / 'vis_data'
    again.mkdir(parents=True)
    later = [dict(lr=0.1, loss=9., epoch=9, iter=45, step=45), {'accuracy/top1': 97., 'step': 9},
             dict(lr=0.1, loss=9., epoch=10, iter=50, step=50)]
    (again / 'scalars.json').write_text('\n'.join(map(json.dumps, later)))
    lines = lines_of(weights.merge_logs(run))
    assert lines[16:-1] == later and len(lines) == 20
    assert lines[-1] == {'accuracy/top1': 98.25 + 1e-6, 'step': 10}


def test_a_long_log_is_thinned(work_dir, monkeypatch):
    run = open_run(work_dir / TEACHER / 'seed0')
    path, = run.work_dir.glob('*/vis_data/scalars.json')
    path.write_text(''.join(
        ''.join(json.dumps(dict(lr=0.1, loss=0.5, epoch=epoch, step=100 * epoch + step)) + '\n' for step in range(100))
        + json.dumps({'accuracy/top1': 1., 'step': epoch}) + '\n' for epoch in range(1, 11)))
    monkeypatch.setattr(weights, 'MAX_BYTES_OF_LOG', 20_000)
    text = weights.merge_logs(run)
    lines = lines_of(text)
    assert 10_000 < len(text) <= 20_000
    assert [line['step'] for line in lines if 'lr' not in line] == list(range(1, 11))
    steps = [line['step'] for line in lines if 'lr' in line]
    assert steps == sorted(steps) and {100 * epoch + 99 for epoch in range(1, 11)} < set(steps)


# Metafiles

METAFILE = """\
Collections:
  - Name: Some
# A remark.
Models:
  - Name: first
    Metadata:
      FLOPs: 1  # few
      Epochs: 3
    # Where it is.
    Config: configs/first.py
    # Old.
    Results:
      - Dataset: Digits
        Metrics:
          Top 1 Accuracy: 1.0
    # About weights.
    Weights: old.pth
    Extra: "a: b"

  # Of the second.
  - Name: second
    Config: configs/second.py
    Metadata:
      FLOPs: 2
"""


def test_an_entry_is_edited_in_place():
    fields = dict(Results=[dict(Dataset='Digits', Metrics={'Top 1 Accuracy': 12.5})], Weights='new.pth')
    first = set_training(METAFILE, 'first', fields, dict(Epochs='1 of 3', Seed=2), 'New.')
    start, end = METAFILE.split('      Epochs: 3\n')
    assert first == start + """\
      Epochs: 1 of 3
      Seed: 2
    # Where it is.
    Config: configs/first.py
    Extra: "a: b"
    # New.
    Results:
      - Dataset: Digits
        Metrics:
          Top 1 Accuracy: 12.5
    Weights: new.pth
""" + end[end.index('\n  # Of the second.'):]
    assert set_training(first, 'first', fields, dict(Epochs='1 of 3', Seed=2), 'New.') == first
    # The last entry, with its metadata at the end.
    second = set_training(METAFILE, 'second', fields, dict(Seed=0))
    assert second.startswith(METAFILE) and second[len(METAFILE):].startswith('      Seed: 0\n    Results:\n')
    assert set_training(second, 'second') == METAFILE
    bare = yaml.safe_load(set_training(METAFILE, 'first'))['Models'][0]
    assert bare == dict(Name='first', Metadata=dict(FLOPs=1), Config='configs/first.py', Extra='a: b')


@pytest.mark.parametrize('old, new, message', [
    ('- Name: first', '- Name: third', "\\b0 entries .*'first'"),
    ('- Name: second', '- Name: first', "\\b2 entries .*'first'"),
    ('    Metadata:\n      FLOPs: 1  # few\n      Epochs: 3\n', '    Metadata: {FLOPs: 1, Epochs: 3}\n',
     r"'first' .*\{\"Weights\": \"new.pth\", \"Metadata\": \{\"Seed\": 1\}\}"),
    ('  - Name: first', '  - "Name": first', "'first' .*new.pth"),
])
def test_unsupported_layouts_are_refused(old, new, message):
    with pytest.raises(UserError, match=message):
        set_training(METAFILE.replace(old, new), 'first', dict(Weights='new.pth'), dict(Seed=1))


# Pages

PROVENANCE = ('10 and 60 epochs', 'A note.', 'bf16 autocast', '2 cores of A CPU', 'torch 2.5.0', 'mmat 0.1.0',
              '`0123456789ab`', '2026-01-02', '[results/tiny.csv](results/tiny.csv)',
              '`python tools/reproduce.py recipes/tiny.py`')


def in_order(text, parts):
    """Whether a text has all parts, one after the other."""
    return re.search('.*'.join(map(re.escape, parts)), ' '.join(text.split())) is not None


def link(name, prefix=''):
    return f'[{name}]({prefix}configs/{"at" if "_at-" in name else "wide_resnet"}/{name}.py)'


def test_pages_note_shared_batches(root, work_dir, tested):
    for name in (STUDENT, TAUGHT):
        for seed in range(3):
            change(work_dir / name / f'seed{seed}' / 'run.json', batch_seed=0)
            change(work_dir / name / f'seed{seed}' / 'result.json', batch_seed=0)
    record_results(read(root, work_dir), root, [])
    rows = read_csv(root / 'results' / 'tiny.csv')
    assert [row['batch_seed'] for row in rows] == [None] * 3 + [0] * 6
    update_pages(root)
    text = ' '.join((root / 'README.md').read_text().split())
    assert text.count(shared_batches_note(rows)) == 1 and STUDENT in shared_batches_note(rows)
    assert text.count('`python tools/reproduce.py recipes/tiny.py --share-batches`.') == 1


def test_pages_have_the_numbers_and_their_provenance(root, work_dir, tested):
    shutil.rmtree(work_dir / TEACHER / 'seed1')
    shutil.rmtree(work_dir / TEACHER / 'seed2')
    record_results(read(root, work_dir), root, [])
    assert update_pages(root, write=False) == [root / name for name in ('README.md', 'configs/at/README.md')]
    assert '| student' not in (root / 'README.md').read_text()
    assert len(update_pages(root)) == 2 and update_pages(root) == [] == update_pages(root, write=False)
    table, about, rest = (root / 'README.md').read_text().rsplit('\n\n', 2)
    assert rest == 'The rest.\n' and in_order(about, PROVENANCE) and about.endswith('\n<!-- end of table -->')
    assert table == f"""\
# A page

<!-- table: results/tiny.csv -->
| network | config | published | test error, %: median of 3 seeds | min to max | seeds 0, 1, 2 |
|---|---|---|---|---|---|
| teacher | {link(TEACHER)} | | 1.75 | | 1.75 (seed 0) |
| student | {link(STUDENT)} | 20.9 | 25.00 | 19.50 to 29.75 | 19.50, 29.75, 25.00 |
| student + AT | {link(TAUGHT)} | 18.5 | 19.00 | 17.75 to 20.88 | 19.00, 17.75, 20.88 |"""
    other = (root / 'configs' / 'at' / 'README.md').read_text()
    assert f'| student + AT | [{TAUGHT}]({TAUGHT}.py) |' in other and '| student |' not in other
    assert '\n60 epochs' in other and '[results/tiny.csv](../../results/tiny.csv)' in other


def test_a_page_links_to_the_checkpoints(root, work_dir, tested):
    record_results(read(root, work_dir), root, [STUDENT])
    update_pages(root)
    name = index(root)[STUDENT]['file']
    line, = (line for line in (root / 'README.md').read_text().splitlines() if line.startswith('| student |'))
    assert line.endswith(f'| [model](checkpoints/{name}) [log](checkpoints/{name[:-4]}.log.json) |')
    assert (f'| {link(STUDENT, "../")} | [model]({name}) [log]({name[:-4]}.log.json) | 60 | 2 | 75.00 | 0.38 MB, '
            'float16 | [tiny](../results/tiny.csv) |\n') in (root / 'checkpoints' / 'README.md').read_text()


def made(root, options, page='README.md'):
    return fill_tables(f'<!-- table: {options} -->\nold\n<!-- end of table -->\n', root / page, root)


def test_a_table_as_in_the_paper(root, work_dir, tested):
    (root / 'recipes' / 'tiny.py').write_text(f"""
title = note = 'A table'
seeds = (0, 1, 2)
cells = [dict(row=row, column='alone', config='{STUDENT}', published=20.9) for row in ('first', 'second')]
cells.append(dict(row='first', column='AT', config='{TAUGHT}', teacher='{TEACHER}'))
""")
    record_results(read(root, work_dir), root, [])
    text = made(root, 'results/tiny.csv grid')
    alone = f'[25.00](configs/wide_resnet/{STUDENT}.py) (20.9)'
    assert text.splitlines()[1:5] == [
        '| test error, % | alone | AT |', '|---|---|---|',
        f'| first | {alone} | [19.00](configs/at/{TAUGHT}.py) |', f'| second | {alone} | |']
    assert in_order(text, ('60 epochs', 'Median', '3 seeds', 'published'))
    assert [line for line in made(root, 'results/tiny.csv').splitlines() if line.startswith('| ')][1:] == [
        f'| first: alone | {link(STUDENT)} | 20.9 | 25.00 | 19.50 to 29.75 | 19.50, 29.75, 25.00 |',
        f'| first: AT | {link(TAUGHT)} | | 19.00 | 17.75 to 20.88 | 19.00, 17.75, 20.88 |']
    assert '| second |' not in made(root, 'results/tiny.csv grid only=first')


def test_a_table_of_one_seed(root, work_dir, tested):
    for name in (TEACHER, STUDENT, TAUGHT):
        for seed in (1, 2):
            shutil.rmtree(work_dir / name / f'seed{seed}')
    record_results(read(root, work_dir), root, [])
    lines = made(root, 'results/tiny.csv').splitlines()
    assert lines[1] == '| network | config | published | test error, %: seed 0 |'
    assert lines[3] == f'| teacher | {link(TEACHER)} | | 1.75 |'
    assert re.search('One seed.*published', made(root, 'results/tiny.csv grid'))


def test_a_table_without_results_yet_is_kept(root):
    for name in ('results/tiny.csv', 'results/tiny_x0.05.csv', 'checkpoints/index.csv'):
        assert '\nold\n' in made(root, name)


END = '<!-- end of table -->\n'


@pytest.mark.parametrize('text, error, message', [
    (f'<!-- table: results/tinny.csv -->\n{END}', MissingFileError, 'results/tinny.csv .*results/tiny.csv'),
    (f'<!-- table: result/tiny.csv -->\n{END}', MissingFileError, 'result/tiny.csv .*results/tiny.csv'),
    (f'<!-- table: results/tiny.csv gird -->\n{END}', UserError, "'gird'.* grid .*only="),
    (f'<!-- table: results/tiny.csv only=nin-* -->\n{END}', UserError, f'only=nin-.* tiny.csv.*{STUDENT}'),
    ('<!-- table: results/tiny.csv -->\n', UserError, END[:-1]),
    (END, UserError, END[:-1]),
    (f'<!-- table: results/tiny.csv -->\n<!-- table: results/tiny.csv -->\n{END}', UserError, END[:-1]),
])
def test_wrong_tables_are_refused_and_no_page_is_written(text, error, message, root, work_dir, tested):
    record_results(read(root, work_dir), root, [])
    (root / 'configs' / 'at' / 'README.md').write_text(text)
    before = files_of(root)
    with pytest.raises(error, match=f'at/README.md: .*{message}'):
        update_pages(root)
    assert files_of(root) == before


# The tools

def test_the_tools(root, work_dir, tested, monkeypatch):
    monkeypatch.setattr('mmat.utils.zoo.zoo_root', lambda: root)
    recipe = root / 'recipes' / 'tiny.py'
    assert str(root) in fails('misc/land_results.py', recipe, '--work-dir', work_dir)
    (root / 'setup.py').touch()
    assert f'{STUDENT}, seed 1 ' in (change(work_dir / STUDENT / 'seed1' / 'result.json', commit=None) or fails(
        'misc/land_results.py', recipe, '--work-dir', work_dir))
    change(work_dir / STUDENT / 'seed1' / 'result.json', commit='0123456789ab')
    code, output = run_tool('misc/land_results.py', recipe, '--work-dir', work_dir, '--weights')
    assert not code and 'results/tiny.csv: 9 rows\nREADME.md: ' in output
    assert run_tool('misc/readme_tables.py', '--check') == (0, '')
    page = root / 'README.md'
    before = page.read_text()
    page.write_text(before.replace('25.00', '24.00'))
    code, output = run_tool('misc/readme_tables.py', '--check')
    assert code == 1 and output.startswith('README.md: ') and output.count('\n') == 1
    assert '24.00' in page.read_text()
    code, output = run_tool('misc/readme_tables.py')
    assert code == 0 and output.startswith('README.md: ') and page.read_text() == before
