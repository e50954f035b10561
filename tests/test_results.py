"""The numbers in results, checkpoints, metafiles and READMEs agree."""
import csv
import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from statistics import median

import pytest
import torch
import yaml
from finished_table import ACCURACIES, ROOT, STUDENT, TAUGHT, TEACHER, make_checkout, make_runs
from mmengine.config import Config

import mmat
from mmat.errors import UserError
from mmat.reproduce import weights
from mmat.reproduce.readme_tables import update_pages
from mmat.reproduce.recipe import name_of, read_recipe
from mmat.reproduce.record_results import read_table, record_results
from mmat.reproduce.results import read_csv, write_csv
from mmat.reproduce.shorten import shorten
from mmat.utils.zoo import find_config, list_models

METRICS = {'accuracy/top1': 'Top 1 Accuracy', 'accuracy/top5': 'Top 5 Accuracy'}
SPEED_COLUMNS = ('figure', 'what', 'value', 'low', 'high', 'unit', 'goal', 'repeats', 'setting',
                 'hardware', 'software', 'date', 'commit', 'command')
LIMITS = dict(checkpoint=3_000_000, all=40_000_000, log=200_000)
SHA256, COMMIT, DATE = re.compile(r'[0-9a-f]{64}'), re.compile(r'[0-9a-f]{12}'), re.compile(r'20\d\d-\d\d-\d\d')


def accuracy(row):
    return 100 - row['value'] if row['measure'] == 'error' else row['value']


def wrong_rows(path, recipes):
    """Yield the errors of a results file."""
    found = re.fullmatch(r'(\w+?)(?:_x([\d.e-]+))?', path.stem)
    recipe, scale = read_recipe(str(recipes / f'{found[1]}.py')), float(found[2] or 1)
    cells = {(cell.row, cell.column): cell for cell in recipe.cells}
    rows = read_csv(path)
    checkpoints = {(row['config'], row['seed']): row['checkpoint_sha256'] for row in rows}
    seen = set()
    for row in rows:
        name = f'{path.name}: {row["config"]}, seed {row["seed"]}'
        cell = cells.get((row['row'], row['column']))
        if cell is None or name_of(cell.config) != row['config'] or row['config'] not in list_models():
            yield f'{name}: the recipe has no such cell'
            continue
        if (row['recipe'], row['published'], row['metric'], row['measure']) != (
                found[1], cell.published, cell.metric, recipe.measure):
            yield f'{name}: the recipe differs'
        if (row['teacher'] is None) != (cell.get('teacher') is None) or row['teacher'] and (
                name_of(cell.teacher) != row['teacher']):
            yield f'{name}: the recipe has another teacher'
        config = Config.fromfile(find_config(row['config']))
        epochs = shorten(config, scale).get('train_cfg.max_epochs', row['planned_epochs'])
        if row['planned_epochs'] != config.train_cfg.max_epochs or row['epochs'] != epochs:
            yield f'{name}: {row["epochs"]} of {row["planned_epochs"]} epochs'
        if not 0 < row['value'] < 100 or row['wall_time'] < 0 or row['attempts'] < 1 or row['processes'] < 1:
            yield f'{name}: a number is out of range'
        if not COMMIT.fullmatch(row['commit'] or ''):
            yield f'{name}: commit {row["commit"]}'
        if not DATE.fullmatch(row['date'] or '') or any(
                row[key] is None for key in ('mmat', 'python', 'torch', 'mmengine', 'hardware', 'precision')):
            yield f'{name}: provenance is missing'
        if checkpoints[row['config'], row['seed']] != row['checkpoint_sha256'] or not SHA256.fullmatch(
                row['checkpoint_sha256']):
            yield f'{name}: checkpoint_sha256'
        teacher = checkpoints.get((row['teacher'], row['teacher_seed']), row['teacher_sha256'])
        if row['teacher'] and (teacher != row['teacher_sha256'] or not SHA256.fullmatch(teacher or '')):
            yield f'{name}: teacher_sha256'
        key = row['row'], row['column'], row['seed']
        if key in seen:
            yield f'{name}: duplicate in a cell'
        seen.add(key)


def wrong_checkpoints(root, entries, results):
    """Yield the errors of the checkpoints: each needs its hash, a log, a row of results and a metafile entry."""
    index = weights.read_index(root)
    folder = root / 'checkpoints'
    expected = {'README.md', *(['index.csv'] if (folder / 'index.csv').is_file() else [])}
    for entry in index:
        path, name = folder / entry['file'], entry['file']
        log = path.with_name(f'{path.stem}.log.json')
        expected |= {path.name, log.name}
        if not path.is_file() or not log.is_file():
            yield f'{name}: the file or its log is missing'
            continue
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry['sha256'] or not name.endswith(f'-{entry["sha256"][:8]}.pth'):
            yield f'{name}: wrong hash'
            continue
        if len(content) != entry['bytes'] or len(content) > LIMITS['checkpoint'] or log.stat().st_size > LIMITS['log']:
            yield f'{name}: size of the file or of its log'
        row = next((row for row in results.get(entry['results'], ()) if (row['config'], row['seed']) == (
            entry['config'], entry['seed'])), None)
        if row is None or row['checkpoint_sha256'] != entry['checkpoint_sha256']:
            yield f'{name}: no row of results'
            continue
        shortened = '' if row['epochs'] == row['planned_epochs'] else f'_{row["epochs"]}of{row["planned_epochs"]}e'
        if not name.startswith(f'{entry["config"]}{shortened}_{row["date"].replace("-", "")}-'):
            yield f'{name}: wrong file name'
        if abs(entry['accuracy'] - accuracy(row)) > 0.05:
            yield f'{name}: the tested accuracy differs from its row'
        last = yaml.safe_load(log.read_text().splitlines()[-1])
        if last['step'] != row['epochs'] or abs(last[row['metric']] - accuracy(row)) > 1e-4:
            yield f'{name}: the end of its log differs from its row'
        state = torch.load(path, weights_only=True)
        kinds = {value.dtype for value in state['state_dict'].values() if value.is_floating_point()}
        if kinds != {getattr(torch, entry['precision'])} or state['meta'].get('seed') != entry['seed']:
            yield f'{name}: precision or seed'
        listed = entries.get(entry['config'], {})
        if (listed.get('Weights'), listed.get('Training Log')) != (f'checkpoints/{name}', f'checkpoints/{log.name}'):
            yield f'{name}: the metafile has another file'
            continue
        planned = row['planned_epochs']
        if listed['Metadata'].get('Seed') != entry['seed'] or listed['Metadata'].get('Epochs') != (
                f'{row["epochs"]} of {planned}' if shortened else planned):
            yield f'{name}: the metafile has another seed or number of epochs'
    if len({entry['config'] for entry in index}) != len(index):
        yield 'a config has two checkpoints'
    if sum(entry['bytes'] for entry in index) > LIMITS['all']:
        yield 'the total size of the checkpoints'
    found = {path.name for path in folder.iterdir()}
    if found != expected:
        yield f'checkpoints: missing or extra files {sorted(found ^ expected)}'


def wrong_entries(root, entries, results):
    """Yield the metafile entries whose accuracy is neither that of their checkpoint's run nor the median."""
    index = {f'checkpoints/{entry["file"]}': entry for entry in weights.read_index(root)}
    for name, entry in entries.items():
        file = entry.get('Weights')
        if file is not None and '://' in file:
            continue
        if file is not None and file not in index:
            yield f'{name}: {file} is not in the index'
            continue
        groups = [[row for row in rows if row['config'] == name] for rows in results.values()]
        if file is not None:
            groups = [[row for row in results.get(index[file]['results'], ())
                       if (row['config'], row['seed']) == (name, index[file]['seed'])]]
        groups = [group for group in groups if group]
        if file is None and not groups:
            continue
        allowed = [{METRICS[metric]: round(median({row['seed']: accuracy(row) for row in group
                                                   if row['metric'] == metric}.values()), 2)
                    for metric in {row['metric'] for row in group}} for group in groups]
        if [result['Metrics'] for result in entry.get('Results', ())] not in [[metrics] for metrics in allowed]:
            yield f'{name}: the metafile has {entry.get("Results")}, expected one of {allowed}'


def wrong_speeds(path):
    """Yield the errors of the file that the benchmarks write, if it exists."""
    if not path.is_file():
        return
    with open(path, newline='') as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != SPEED_COLUMNS:
            yield f'{path.name}: its columns are {reader.fieldnames}'
            return
        rows = list(reader)
    ancestors = git(path.parents[1], 'rev-list', 'HEAD')
    seen = set()
    for row in rows:
        name = f'{path.name}: {row["figure"]}, {row["what"]}'
        try:
            value, low, high, repeats = (float(row[key]) for key in ('value', 'low', 'high', 'repeats'))
            if not -float('inf') < low <= value <= high < float('inf') or repeats < 1 or repeats % 1:
                yield f'{name}: a number is out of range'
        except (TypeError, ValueError):
            yield f'{name}: not a number'
        if not re.fullmatch(r'([<>]= [0-9.]+)?', row['goal']):
            yield f'{name}: goal {row["goal"]}'
        if not DATE.fullmatch(row['date']) or not row['hardware'] or 'torch ' not in row['software']:
            yield f'{name}: provenance is missing'
        script = re.match(r'python (benchmarks/\w+\.py)', row['command'])
        if not script or not (ROOT / script[1]).is_file():
            yield f'{name}: command {row["command"]}'
        if not COMMIT.fullmatch(row['commit']) or ancestors and not any(
                each.startswith(row['commit']) for each in ancestors):
            yield f'{name}: commit {row["commit"]}'
        key = row['figure'], row['what'], row['setting'], row['hardware']
        if key in seen:
            yield f'{name}: duplicate'
        seen.add(key)


def git(root, *arguments):
    """Return the words of git's output in a checkout; [] outside a checkout and in a shallow one."""
    def lines(*words):
        done = subprocess.run(['git', '-C', str(root), *words], capture_output=True, text=True)
        return done.stdout.split() if done.returncode == 0 else []

    try:
        whole = lines('rev-parse', '--is-shallow-repository') == ['false'] and lines('rev-parse', '--show-toplevel')
        return lines(*arguments) if whole and Path(whole[0]).resolve() == Path(root).resolve() else []
    except OSError:
        return []


def wrong(root):
    """Return all errors in a checkout."""
    files = [path for path in sorted((root / 'results').glob('*.csv')) if path.name != 'speed.csv']
    results = {path.stem: read_csv(path) for path in files}
    entries = {entry['Name']: entry for path in sorted(root.glob('configs/*/metafile.yml'))
               for entry in yaml.load(path.read_text(), yaml.CSafeLoader)['Models']}
    found = [each for path in files for each in wrong_rows(path, root / 'recipes')]
    found += wrong_speeds(root / 'results' / 'speed.csv')
    found += wrong_checkpoints(root, entries, results)
    found += wrong_entries(root, entries, results)
    try:
        return found + [f'{page}: outdated tables; run python tools/misc/readme_tables.py'
                        for page in update_pages(root, write=False)]
    except UserError as error:
        return [*found, str(error)]


def test_the_repository_agrees_with_itself():
    assert wrong(ROOT) == []


@pytest.mark.parametrize('entry', weights.read_index(ROOT), ids=lambda entry: entry['config'])
def test_a_config_name_loads_its_checkpoint(entry):
    network = mmat.get_model(entry['config'], pretrained=True)
    state = torch.load(ROOT / 'checkpoints' / entry['file'])['state_dict']
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key].to(value.dtype)) for key, value in network.state_dict().items())
    assert len(network._dataset_meta['classes']) == network.head.num_classes


# The checks above fail on each kind of error

@pytest.fixture(scope='module')
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp('recorded')
    work_dir, root = make_runs(folder / 'runs'), make_checkout(folder / 'checkout')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, 'measure_accuracy', lambda run, *_: ACCURACIES[run.name][run.seed])
        record_results(read_table(str(root / 'recipes' / 'tiny.py'), work_dir), root, [TEACHER, STUDENT])
    update_pages(root)
    return root


@pytest.fixture
def checkout(recorded, tmp_path):
    return Path(shutil.copytree(recorded, tmp_path / 'checkout'))


def test_a_recorded_table_agrees(checkout):
    assert wrong(checkout) == []
    assert {entry['config'] for entry in weights.read_index(checkout)} == {TEACHER, STUDENT}


def in_rows(**values):
    """Change the first row of the student's."""
    def damage(root):
        rows = read_csv(root / 'results' / 'tiny.csv')
        next(row for row in rows if row['config'] == STUDENT and row['seed'] == 2).update(values)
        write_csv(rows, root / 'results' / 'tiny.csv')
    return damage


def in_file(pattern, old, new):
    def damage(root):
        path, = root.glob(pattern)
        text = path.read_text()
        changed = re.sub(old, new, text, count=1, flags=re.DOTALL)
        assert changed != text
        path.write_text(changed)
    return damage


def teachers_hash(root):
    rows = read_csv(root / 'results' / 'tiny.csv')
    next(row for row in rows if row['config'] == TAUGHT)['teacher_sha256'] = 'a' * 64
    write_csv(rows, root / 'results' / 'tiny.csv')


def remove(pattern):
    return lambda root: [path.unlink() for path in root.glob(pattern)]


@pytest.mark.parametrize('damage, message', [
    (in_rows(value=25.5), f'{STUDENT}.*tested accuracy'),
    (in_rows(value=25.02), f'{STUDENT}.*end of its log'),
    (in_rows(value=25.02), f'{STUDENT}: the metafile has'),
    (in_rows(seed=1), 'seed 1: duplicate in a cell'),
    (in_rows(seed=7), f'{STUDENT}.*no row of results'),
    (in_rows(seed=7), f'checkpoints/README.md: {STUDENT}.* results/tiny.csv .*seed 2 of {STUDENT}'),
    (remove('results/tiny.csv'), f'checkpoints/README.md: {STUDENT}.* results/tiny.csv '),
    (in_rows(row='students'), 'the recipe has no such cell'),
    (in_rows(config='wrn16-1_1xb128_cifar10'), 'the recipe has no such cell'),
    (in_rows(published=9.), 'the recipe differs'),
    (in_rows(measure='accuracy'), 'the recipe differs'),
    (in_rows(teacher=TEACHER, teacher_seed=0), 'another teacher'),
    (in_rows(epochs=6), '6 of 60 epochs'),
    (in_rows(epochs=6, planned_epochs=6), '6 of 6 epochs'),
    (in_rows(commit='0123456789ab+'), r'commit 0123456789ab\+'),
    (in_rows(commit=None), 'commit None'),
    (in_rows(hardware=None), 'provenance is missing'),
    (in_rows(date='2026-01-03'), 'wrong file name'),
    (in_rows(checkpoint_sha256='b' * 64), 'no row of results'),
    (teachers_hash, 'teacher_sha256'),
    (in_file('README.md', '25.00', '24.00'), 'README.md: outdated tables'),
    (in_file('checkpoints/README.md', '75.00', '76.00'), 'checkpoints/README.md: outdated tables'),
    (in_file('configs/wide_resnet/metafile.yml', '75.0', '76.0'), f'{STUDENT}: the metafile has'),
    (in_file('configs/at/metafile.yml', r'Accuracy: 81\.0', 'Accuracy: 82.0'), f'{TAUGHT}: the metafile has'),
    (in_file('configs/wide_resnet/metafile.yml', 'Epochs: 60', 'Epochs: 6'), 'another seed or number of epochs'),
    (in_file('configs/wide_resnet/metafile.yml', 'Seed: 2', 'Seed: 1'), 'another seed or number of epochs'),
    (in_file('configs/wide_resnet/metafile.yml', f'Weights: checkpoints/{STUDENT}', 'Weights: checkpoints/x'),
     'the metafile has another file'),
    (in_file('configs/wide_resnet/metafile.yml', f'Log: checkpoints/{STUDENT}', 'Log: checkpoints/x'),
     'the metafile has another file'),
    (in_file('configs/at/metafile.yml', f'(Config: configs/at/{TAUGHT}.py)', r'\1\n    Weights: checkpoints/a.pth'),
     'a.pth is not in the index'),
    (remove(f'checkpoints/{STUDENT}*.pth'), f'{STUDENT}.* is missing'),
    (remove(f'checkpoints/{STUDENT}*.json'), f'{STUDENT}.* is missing'),
    (remove('checkpoints/index.csv'), 'is not in the index'),
    (lambda root: (root / 'checkpoints' / 'a.pth').touch(), r"extra files \['a.pth'\]"),
    (lambda root: next(root.glob(f'checkpoints/{STUDENT}*.pth')).write_bytes(b'a'), 'wrong hash'),
    (in_file('checkpoints/index.csv', ',[0-9]{6},float16', ',1,float16'), 'size of the file'),
    (in_file('checkpoints/index.csv', ',float16', ',float32'), 'precision or seed'),
    (in_file(f'checkpoints/{STUDENT}*.log.json', r'\{[^\n]*\}\n$', ''), 'end of its log'),
])
def test_errors_are_found(damage, message, checkout):
    damage(checkout)
    found = wrong(checkout)
    assert any(re.search(message, each) for each in found), found


@pytest.mark.parametrize('limit, message', [('checkpoint', 'size of the file'), ('log', 'of its log'),
                                            ('all', 'total size')])
def test_the_limits(limit, message, recorded, monkeypatch):
    monkeypatch.setitem(LIMITS, limit, 1000)
    assert any(message in each for each in wrong(recorded))


SPEED = dict(figure='R1', what='a / b', value='1.02', low='1.01', high='1.04', unit='ratio', goal='<= 1.03',
             repeats='5', setting='fp32, 2 threads', hardware='2 cores of AMD EPYC',
             software='python 3.11.7, torch 2.15.0', date='2026-11-22', commit='',
             command='python benchmarks/common.py --record')


@pytest.mark.parametrize('changes, message', [
    ({}, None), (dict(goal=''), None), (dict(value='1.05'), 'out of range'), (dict(low='nan'), 'out of range'),
    (dict(high='inf'), 'out of range'), (dict(low='1.03'), 'out of range'), (dict(repeats='0'), 'out of range'),
    (dict(value='fast'), 'not a number'), (dict(value=''), 'not a number'), (dict(goal='< 2'), 'goal < 2'),
    (dict(hardware=''), 'provenance'), (dict(date='22.11.2026'), 'provenance'), (dict(software='?'), 'provenance'),
    (dict(command='python a.py'), 'command'), (dict(command='python benchmarks/none.py'), 'command'),
    (dict(commit='0123456789ab'), 'commit 0123456789ab'), (dict(commit='HEAD+'), 'commit')])
def test_rows_of_speed(changes, message, tmp_path):
    for arguments in (['init'], ['commit', '--allow-empty', '-m', 'a']):
        subprocess.run(['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=a', *arguments], check=True,
                       capture_output=True)
    commit, = git(tmp_path, 'rev-list', 'HEAD')
    path = tmp_path / 'results' / 'speed.csv'
    path.parent.mkdir()

    def check(*rows, columns=SPEED_COLUMNS):
        with open(path, 'w', newline='') as file:
            writer = csv.DictWriter(file, columns, extrasaction='ignore')
            writer.writeheader()
            writer.writerows(rows)
        return list(wrong_speeds(path))

    row = {**SPEED, 'commit': commit[:12], **changes}
    found = check(row)
    assert found == [] if message is None else len(found) == 1 and message in found[0]
    if not changes:
        assert check(row, row) == ['speed.csv: R1, a / b: duplicate'] and check(row, {**row, 'setting': 'bf16'}) == []
        assert 'columns' in check(row, columns=SPEED_COLUMNS[1:])[0]
        # Without the history, commits cannot be checked.
        shutil.rmtree(tmp_path / '.git')
        assert check({**row, 'commit': '0123456789ab'}) == []
