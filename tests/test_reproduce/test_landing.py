"""Runs of a table become part of the repository, or nothing does."""
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
from mmat.models import build_network
from mmat.registry import DATASETS
from mmat.reproduce import landing, weights
from mmat.reproduce.landing import land, read_table
from mmat.reproduce.metafile import set_training
from mmat.reproduce.readme_tables import fill, update
from mmat.reproduce.results import read_csv
from mmat.reproduce.run import Run, open_run
from mmat.utils.zoo import fetch_weights

plainly = Config.fromfile
read_once = functools.lru_cache(plainly)


@pytest.fixture(autouse=True)
def configs_are_read_once(monkeypatch):
    """Reading them takes most of the time otherwise."""
    monkeypatch.setattr(Config, 'fromfile', lambda path: copy.deepcopy(
        read_once(path) if Path(path).is_relative_to(ROOT) else plainly(path)))


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
    """What files are said to give when they are tested: (config, precision) -> what is added to the run's accuracy."""
    added = {}

    def measure(run, checkpoint, metric):
        return round(run.result['metrics'][metric], 4) + added.get((run.name, checkpoint.parent.name), 0)

    monkeypatch.setattr(weights, 'measure', measure)
    return added


def read(root, work_dir, scale=1.):
    return read_table(str(root / 'recipes' / 'tiny.py'), work_dir, scale)


def entries(root):
    return {entry['Name']: entry for path in root.glob('configs/*/metafile.yml')
            for entry in yaml.safe_load(path.read_text())['Models']}


def index(root):
    return {row['config']: row for row in weights.read_index(root)}


# What lands

def test_a_table_lands(root, work_dir, tested):
    before = {path: path.read_text() for path in root.glob('configs/*/metafile.yml')}
    told = entries(root)
    lines = land(read(root, work_dir), root)
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
        told[name]['Results'] = [dict(Dataset='Digits', Metrics={'Top 1 Accuracy': ACCURACIES[name][seed]},
                                      Task='Image Classification')]
        told[name].update({'Weights': f'checkpoints/{path.name}',
                           'Training Log': f'checkpoints/{path.name[:-4]}.log.json'})
        told[name]['Metadata'].update(Seed=seed, Epochs=10 if name == TEACHER else 60)
        log = [json.loads(line) for line in (root / told[name]['Training Log']).read_text().splitlines()]
        assert log[-1] == {'accuracy/top1': ACCURACIES[name][seed], 'step': told[name]['Metadata']['Epochs']}
    assert entries(root) == told
    text = (root / 'configs' / 'wide_resnet' / 'metafile.yml').read_text()
    assert '    # Seed 0, which taught the students: results/tiny.csv.\n    Results:' in text
    assert '    # Seed 2, the median of seeds 0, 1, 2: results/tiny.csv.\n    Results:' in text
    # All that is of other entries, comments and empty lines too, is as it was.
    for path, old in before.items():
        blocks = [{block.split('\n')[0]: block.rstrip() for block in text.split('  - Name: ')}
                  for text in (old, path.read_text())]
        assert blocks[0].keys() == blocks[1].keys()
        assert {name for name in blocks[0] if blocks[0][name] != blocks[1][name]} == {
            name for name in (TEACHER, STUDENT, TAUGHT) if name in blocks[0]}


def test_landing_again_changes_nothing_and_a_new_run_replaces_the_old(root, work_dir, tested):
    land(read(root, work_dir), root, ['wrn16-1_*'])
    first = files_of(root)
    land(read(root, work_dir), root, ['wrn16-1_*'])
    assert files_of(root) == first
    old = index(root)
    for seed in (1, 2):  # so that seed 1 is the median
        change(work_dir / STUDENT / f'seed{seed}' / 'result.json',
               metrics={'accuracy/top1': 79. if seed == 1 else 30.})
    land(read(root, work_dir), root, ['wrn16-1_*'])
    assert index(root)[STUDENT]['seed'] == 1 and index(root)[TAUGHT] == old[TAUGHT]
    name = old[STUDENT]['file']
    assert first.keys() - files_of(root).keys() == {f'checkpoints/{name}', f'checkpoints/{name[:-4]}.log.json'}
    assert name not in (root / 'configs' / 'wide_resnet' / 'metafile.yml').read_text()


def test_of_an_even_number_the_worse_in_the_middle():
    def rows(measure, values):
        return [dict(config='a', seed=seed, metric='m', measure=measure, value=value, teacher=None, teacher_seed=None)
                for seed, value in enumerate(values)]
    assert weights.chosen_row(rows('error', (10, 30, 20, 40)), 'a')['seed'] == 1
    assert weights.chosen_row(rows('accuracy', (10, 30, 20, 40)), 'a')['seed'] == 2
    assert weights.chosen_row(rows('error', (10, 10, 10)), 'a')['seed'] == 1
    twice = rows('error', (10, 30, 20))
    assert weights.chosen_row(twice + [dict(row, metric='n', value=-row['value']) for row in twice], 'a')['seed'] == 2


def test_where_rounding_costs_a_picture_the_weights_stay_whole(root, work_dir, tested):
    tested[STUDENT, 'float16'] = -0.01
    # Half as good as whole, both a picture off where the training was.
    tested[TAUGHT, 'float16'] = tested[TAUGHT, 'float32'] = 0.01
    land(read(root, work_dir), root, ['wrn16-1_*'])
    assert {name: row['precision'] for name, row in index(root).items()} == {
        STUDENT: 'float32', TAUGHT: 'float16'}
    assert index(root)[TAUGHT]['accuracy'] == ACCURACIES[TAUGHT][0] + 0.01
    state = torch.load(root / 'checkpoints' / index(root)[STUDENT]['file'])['state_dict']
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


def test_weights_that_float16_cannot_hold_stay_whole(root, work_dir, tested):
    path = work_dir / STUDENT / 'seed2' / 'epoch_60.pth'
    content = torch.load(path)
    content['state_dict']['backbone.conv0.weight'][0] = 1e5
    torch.save(content, path)
    change(path.with_name('result.json'), checkpoint_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    land(read(root, work_dir), root, [STUDENT])
    assert index(root)[STUDENT]['precision'] == 'float32'


def test_without_weights_the_metafiles_have_the_medians(root, work_dir, tested):
    land(read(root, work_dir), root, [STUDENT])
    shutil.rmtree(work_dir / TAUGHT / 'seed2')
    land(read(root, work_dir), root, [])
    assert not weights.read_index(root) and {path.name for path in (root / 'checkpoints').iterdir()} == {
        'index.csv', 'README.md'}
    for name, accuracy in ((TEACHER, 98.5), (STUDENT, 75.), (TAUGHT, 81.62)):
        entry = entries(root)[name]
        assert entry['Results'][0]['Metrics'] == {'Top 1 Accuracy': accuracy}
        assert not {'Weights', 'Training Log', 'Seed'} & {*entry, *entry['Metadata']}
    assert '# Median of seeds 0, 1: results/tiny.csv.' in (root / 'configs' / 'at' / 'metafile.yml').read_text()


def test_what_is_not_done_is_not_there(root, work_dir, tested):
    (work_dir / STUDENT / 'seed2' / 'result.json').unlink()
    shutil.rmtree(work_dir / TAUGHT)
    land(read(root, work_dir), root)
    assert index(root).keys() == {TEACHER, STUDENT} and index(root)[STUDENT]['seed'] == 1
    assert len(read_csv(root / 'results' / 'tiny.csv')) == 5


def test_a_shortened_training_says_so_everywhere(root, tmp_path, tested):
    options = {'train_cfg.max_epochs': 6, 'param_scheduler.milestones': [2, 4]}
    work_dir = make_runs(tmp_path / 'short', {STUDENT: ACCURACIES[STUDENT]}, options, 6)
    planned = json.loads(json.dumps(landing.options_of(
        Config.fromfile(landing.find_config(STUDENT)), 0.1, 1)))
    for path in work_dir.glob('*/*/run.json'):
        change(path, options=planned)
    land(read(root, work_dir, 0.1), root)
    row = index(root)[STUDENT]
    assert row['results'] == 'tiny_x0.1' and row['file'].startswith(f'{STUDENT}_6of60e_20260102-')
    assert entries(root)[STUDENT]['Metadata']['Epochs'] == '6 of 60'
    text = (root / 'configs' / 'wide_resnet' / 'metafile.yml').read_text()
    assert '# Shortened to 6 of 60 epochs. Seed 2, the median of seeds 0, 1, 2: results/tiny_x0.1.csv.' in text
    page = root / 'README.md'
    page.write_text(page.read_text().replace('tiny.csv', 'tiny_x0.1.csv'))
    update(root)
    assert '**Shortened: 6 of 60 epochs**' in page.read_text() and '--epochs-scale 0.1`' in page.read_text()
    assert '| 6 of 60 | 2 | 75.00 |' in (root / 'checkpoints' / 'README.md').read_text()


# Several tables

def test_the_weights_of_another_table_stay_unless_they_are_named(root, work_dir, tested):
    land(read(root, work_dir), root)
    before, told = index(root), entries(root)
    (root / 'recipes' / 'tiny.py').rename(root / 'recipes' / 'other.py')
    table = read_table(str(root / 'recipes' / 'other.py'), work_dir)
    lines = land(table, root)
    assert f'{STUDENT}: its checkpoint of another table stays; --weights {STUDENT} replaces it' in lines
    assert index(root) == before and entries(root) == told and (root / 'results' / 'other.csv').is_file()
    land(table, root, ['*_at-*'])
    assert {name: row['results'] for name, row in index(root).items()} == {
        TEACHER: 'tiny', STUDENT: 'tiny', TAUGHT: 'other'}
    assert entries(root) == told and 'results/other.csv.' in (root / 'configs' / 'at' / 'metafile.yml').read_text()


def test_weights_of_other_projects_are_left(root, work_dir, tested):
    path = root / 'configs' / 'wide_resnet' / 'metafile.yml'
    path.write_text(set_training(path.read_text(), STUDENT, dict(Weights='https://a.invalid/b-01234567.pth')))
    told = entries(root)[STUDENT]
    land(read(root, work_dir), root)
    assert entries(root)[STUDENT] == told and STUDENT not in index(root)
    with pytest.raises(ValueError, match='matches none of the configs'):
        land(read(root, work_dir), root, [STUDENT])


# What is refused

def replaced(path, **values):
    return lambda work_dir: change(work_dir / path, **values)


@pytest.mark.parametrize('damage, message', [
    (replaced(f'{STUDENT}/seed1/result.json', commit='0123456789ab+'),
     f'{STUDENT}, seed 1 was trained with code that differs from commit 0123456789ab: nobody'),
    (replaced(f'{STUDENT}/seed1/result.json', commit=None), 'code outside a git checkout'),
    (replaced(f'{STUDENT}/seed1/run.json', options={'train_cfg.max_epochs': 6}),
     "seed 1 was trained with {'train_cfg.max_epochs': 6}, and --epochs-scale 1 means those of its config"),
    (replaced(f'{STUDENT}/seed1/run.json', config_hash='0' * 16), 'seed 1 was changed since it was trained'),
    (replaced(f'{TEACHER}/seed0/result.json', checkpoint_sha256='0' * 64),
     f'the teacher of {TAUGHT}, seed 0, {TEACHER}, seed 0, is not the one that taught'),
    (lambda work_dir: (work_dir / STUDENT / 'seed2' / 'epoch_60.pth').write_bytes(b'other'),
     'is not the checkpoint that .* ended with'),
    (lambda work_dir: (work_dir / STUDENT / 'seed2' / 'epoch_60.pth').unlink(), 'is gone; train it again'),
    (shutil.rmtree, 'no folder'),
    (lambda work_dir: [path.unlink() for path in work_dir.rglob('result.json')], 'nothing of .* is done in'),
])
def test_what_is_not_sound_is_refused_whole(damage, message, root, work_dir, tested):
    damage(work_dir)
    before = files_of(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        land(read(root, work_dir), root)
    assert files_of(root) == before


@pytest.mark.parametrize('names, error', [([STUDENT[:-1]], f'matches none .* closest are {STUDENT}'),
                                          (['*'], f'{TEACHER}: .* bytes in float16, more than the 1,000,000')])
def test_names_and_sizes(names, error, root, work_dir, tested, monkeypatch):
    monkeypatch.setattr(weights, 'MAX_BYTES', 1_000_000)
    before = files_of(root)
    with pytest.raises(ValueError, match=error):
        land(read(root, work_dir), root, names)
    assert files_of(root) == before


def test_what_is_too_large_is_left_out_where_nothing_was_named(root, work_dir, tested, monkeypatch):
    monkeypatch.setattr(weights, 'MAX_BYTES', 1_000_000)
    lines = land(read(root, work_dir), root)
    assert any(line.startswith(f'no checkpoint of {TEACHER}: ') for line in lines)
    assert index(root).keys() == {STUDENT, TAUGHT} and entries(root)[TEACHER]['Results']


def test_all_together_may_be_too_large(root, work_dir, tested, monkeypatch):
    monkeypatch.setattr(landing, 'MAX_BYTES_OF_ALL', 700_000)
    table = read(root, work_dir)
    for _ in range(2):  # what is replaced does not count
        land(table, root, [STUDENT])
    before = files_of(root)
    with pytest.raises(ValueError, match=r'would have 7\d\d,\d{3} bytes together, more than 700,000'):
        land(table, root, ['wrn16-1_*'])
    assert files_of(root) == before


def test_a_checkpoint_that_gives_another_number_is_refused(root, work_dir, tested):
    tested[STUDENT, 'float32'] = 0.06
    before = files_of(root)
    with pytest.raises(ValueError, match=r'seed 2 gives an accuracy of 75.06 % here, and its run 75.0'):
        land(read(root, work_dir), root)
    assert files_of(root) == before


def test_a_checkpoint_is_tested_by_the_tool(tmp_path, monkeypatch):
    """On 40 pictures, against a loop over them."""
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
    assert weights.measure(run, tmp_path / 'a.pth', 'accuracy/top1') == 100 * right / 40
    (tmp_path / 'a.pth').write_bytes(b'?')
    with pytest.raises(RuntimeError, match=f'{STUDENT}, seed 0 cannot be tested: .*cannot be read as a checkpoint'):
        weights.measure(run, tmp_path / 'a.pth', 'accuracy/top1')


# Logs

def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_log_has_what_was_done_twice_once(work_dir):
    run = open_run(work_dir / TEACHER / 'seed0')
    assert [line['step'] for line in lines_of(weights.log_text(run))] == [
        step for epoch in range(1, 11) for step in (5 * epoch, epoch)]
    # Resumed after its eighth epoch, and killed before the last validation.
    again = run.work_dir / '20260103_000000' / 'vis_data'
    again.mkdir(parents=True)
    later = [dict(lr=0.1, loss=9., epoch=9, iter=45, step=45), {'accuracy/top1': 97., 'step': 9},
             dict(lr=0.1, loss=9., epoch=10, iter=50, step=50)]
    (again / 'scalars.json').write_text('\n'.join(map(json.dumps, later)))
    lines = lines_of(weights.log_text(run))
    assert lines[16:-1] == later and len(lines) == 20
    assert lines[-1] == {'accuracy/top1': 98.25 + 1e-6, 'step': 10}


def test_a_long_log_is_thinned(work_dir, monkeypatch):
    run = open_run(work_dir / TEACHER / 'seed0')
    path, = run.work_dir.glob('*/vis_data/scalars.json')
    path.write_text(''.join(
        ''.join(json.dumps(dict(lr=0.1, loss=0.5, epoch=epoch, step=100 * epoch + step)) + '\n' for step in range(100))
        + json.dumps({'accuracy/top1': 1., 'step': epoch}) + '\n' for epoch in range(1, 11)))
    monkeypatch.setattr(weights, 'MAX_BYTES_OF_LOG', 20_000)
    text = weights.log_text(run)
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


def test_an_entry_is_changed_in_its_place():
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
    ('- Name: first', '- Name: third', "has 0 entries of the name 'first'"),
    ('- Name: second', '- Name: first', "has 2 entries of the name 'first'"),
    ('    Metadata:\n      FLOPs: 1  # few\n      Epochs: 3\n', '    Metadata: {FLOPs: 1, Epochs: 3}\n',
     r"'first' is laid out in a way that cannot be changed here; write into it\n    Weights: new.pth\n    Metadata:\n"
     r'      Seed: 1'),
    ('  - Name: first', '  - "Name": first', 'is laid out in a way'),
])
def test_an_entry_that_is_laid_out_otherwise_is_told(old, new, message):
    with pytest.raises(ValueError, match=message):
        set_training(METAFILE.replace(old, new), 'first', dict(Weights='new.pth'), dict(Seed=1))


# Pages

ABOUT = """\
10 and 60 epochs, as the configs have. A note. bf16 autocast on 2 cores of A CPU; torch 2.5.0, mmat 0.1.0; commit
`0123456789ab`; 2026-01-02. Each run: [results/tiny.csv](results/tiny.csv), by `python tools/reproduce.py
recipes/tiny.py`.
"""


def link(name, prefix=''):
    return f'[{name}]({prefix}configs/{"at" if "_at-" in name else "wide_resnet"}/{name}.py)'


def test_pages_tell_that_seeds_shared_their_batches(root, work_dir, tested):
    for name in (STUDENT, TAUGHT):
        for seed in range(3):
            change(work_dir / name / f'seed{seed}' / 'run.json', batch_seed=0)
            change(work_dir / name / f'seed{seed}' / 'result.json', batch_seed=0)
    land(read(root, work_dir), root, [])
    rows = read_csv(root / 'results' / 'tiny.csv')
    assert [row['batch_seed'] for row in rows] == [None] * 3 + [0] * 6
    update(root)
    text = ' '.join((root / 'README.md').read_text().split())
    assert f' as the configs have. Seeds 0 to 2 of {STUDENT}, {TAUGHT} saw the same batches: their spread' in text
    assert text.count('by `python tools/reproduce.py recipes/tiny.py --share-batches`.') == 1


def test_pages_have_the_numbers_and_where_they_are_from(root, work_dir, tested):
    shutil.rmtree(work_dir / TEACHER / 'seed1')
    shutil.rmtree(work_dir / TEACHER / 'seed2')
    land(read(root, work_dir), root, [])
    assert update(root, write=False) == [root / name for name in ('README.md', 'configs/at/README.md')]
    assert '| student' not in (root / 'README.md').read_text()
    assert len(update(root)) == 2 and update(root) == [] == update(root, write=False)
    assert (root / 'README.md').read_text() == f"""\
# A page

<!-- table: results/tiny.csv -->
| network | config | published | test error, %: median of 3 seeds | min to max | seeds 0, 1, 2 |
|---|---|---|---|---|---|
| teacher | {link(TEACHER)} | | 1.75 | | 1.75 (seed 0) |
| student | {link(STUDENT)} | 20.9 | 25.00 | 19.50 to 29.75 | 19.50, 29.75, 25.00 |
| student + AT | {link(TAUGHT)} | 18.5 | 19.00 | 17.75 to 20.88 | 19.00, 17.75, 20.88 |

{ABOUT}<!-- end of table -->

The rest.
"""
    other = (root / 'configs' / 'at' / 'README.md').read_text()
    assert f'| student + AT | [{TAUGHT}]({TAUGHT}.py) |' in other and '| student |' not in other
    assert '\n60 epochs, as' in other and '[results/tiny.csv](../../results/tiny.csv)' in other


def test_a_page_links_to_the_checkpoints(root, work_dir, tested):
    land(read(root, work_dir), root, [STUDENT])
    update(root)
    name = index(root)[STUDENT]['file']
    line, = (line for line in (root / 'README.md').read_text().splitlines() if line.startswith('| student |'))
    assert line.endswith(f'| [model](checkpoints/{name}) [log](checkpoints/{name[:-4]}.log.json) |')
    assert (f'| {link(STUDENT, "../")} | [model]({name}) [log]({name[:-4]}.log.json) | 60 | 2 | 75.00 | 0.38 MB, '
            'float16 | [tiny](../results/tiny.csv) |\n') in (root / 'checkpoints' / 'README.md').read_text()


def made(root, options, page='README.md'):
    return fill(f'<!-- table: {options} -->\nold\n<!-- end of table -->\n', root / page, root)


def test_a_table_as_in_the_paper(root, work_dir, tested):
    (root / 'recipes' / 'tiny.py').write_text(f"""
title = note = 'A table'
seeds = (0, 1, 2)
cells = [dict(row=row, column='alone', config='{STUDENT}', published=20.9) for row in ('first', 'second')]
cells.append(dict(row='first', column='AT', config='{TAUGHT}', teacher='{TEACHER}'))
""")
    land(read(root, work_dir), root, [])
    text = made(root, 'results/tiny.csv grid')
    alone = f'[25.00](configs/wide_resnet/{STUDENT}.py) (20.9)'
    assert text.splitlines()[1:5] == [
        '| test error, % | alone | AT |', '|---|---|---|',
        f'| first | {alone} | [19.00](configs/at/{TAUGHT}.py) |', f'| second | {alone} | |']
    assert 'Median of 3 seeds, in brackets what is published.' in text
    assert [line for line in made(root, 'results/tiny.csv').splitlines() if line.startswith('| ')][1:] == [
        f'| first: alone | {link(STUDENT)} | 20.9 | 25.00 | 19.50 to 29.75 | 19.50, 29.75, 25.00 |',
        f'| first: AT | {link(TAUGHT)} | | 19.00 | 17.75 to 20.88 | 19.00, 17.75, 20.88 |']
    assert '| second |' not in made(root, 'results/tiny.csv grid only=first')


def test_a_table_of_one_seed(root, work_dir, tested):
    for name in (TEACHER, STUDENT, TAUGHT):
        for seed in (1, 2):
            shutil.rmtree(work_dir / name / f'seed{seed}')
    land(read(root, work_dir), root, [])
    lines = made(root, 'results/tiny.csv').splitlines()
    assert lines[1] == '| network | config | published | test error, %: seed 0 |'
    assert lines[3] == f'| teacher | {link(TEACHER)} | | 1.75 |'
    assert 'One seed, in brackets' in made(root, 'results/tiny.csv grid')


def test_a_table_that_is_awaited_is_left(root):
    for name in ('results/tiny.csv', 'results/tiny_x0.05.csv', 'checkpoints/index.csv'):
        assert '\nold\n' in made(root, name)


END = '<!-- end of table -->\n'


@pytest.mark.parametrize('text, message', [
    (f'<!-- table: results/tinny.csv -->\n{END}', 'no results/tinny.csv .* did you mean results/tiny.csv'),
    (f'<!-- table: result/tiny.csv -->\n{END}', 'did you mean results/tiny.csv'),
    (f'<!-- table: results/tiny.csv gird -->\n{END}', "options grid and only=PATTERN, got 'gird'"),
    (f'<!-- table: results/tiny.csv only=nin-* -->\n{END}', 'only=nin-. leaves nothing of tiny.csv; it has'),
    ('<!-- table: results/tiny.csv -->\n', 'a table is between the lines'),
    (END, 'a table is between the lines'),
    (f'<!-- table: results/tiny.csv -->\n<!-- table: results/tiny.csv -->\n{END}', 'is between the lines'),
])
def test_wrong_marks_are_told_and_nothing_is_written(text, message, root, work_dir, tested):
    land(read(root, work_dir), root, [])
    (root / 'configs' / 'at' / 'README.md').write_text(text)
    before = files_of(root)
    with pytest.raises(ValueError, match=f'at/README.md: .*{message}'):
        update(root)
    assert files_of(root) == before


# The tools

def test_the_tools(root, work_dir, tested, monkeypatch):
    monkeypatch.setattr('mmat.utils.zoo.zoo_root', lambda: root)
    recipe = root / 'recipes' / 'tiny.py'
    assert 'results land in a checkout' in fails('misc/land_results.py', recipe, '--work-dir', work_dir)
    (root / 'setup.py').touch()
    assert 'seed 1 was trained with' in (change(work_dir / STUDENT / 'seed1' / 'result.json', commit=None) or fails(
        'misc/land_results.py', recipe, '--work-dir', work_dir))
    change(work_dir / STUDENT / 'seed1' / 'result.json', commit='0123456789ab')
    code, output = run_tool('misc/land_results.py', recipe, '--work-dir', work_dir, '--weights')
    assert not code and 'results/tiny.csv: 9 rows\nREADME.md: tables filled' in output
    assert run_tool('misc/readme_tables.py', '--check') == (0, '')
    page = root / 'README.md'
    before = page.read_text()
    page.write_text(before.replace('25.00', '24.00'))
    assert run_tool('misc/readme_tables.py', '--check') == (1, 'README.md: out of step\n')
    assert '24.00' in page.read_text()
    assert run_tool('misc/readme_tables.py') == (0, 'README.md: filled\n') and page.read_text() == before
