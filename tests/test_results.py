"""What lies in results, checkpoints, metafiles and READMEs belongs together, number for number."""
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
from mmat.reproduce import weights
from mmat.reproduce.landing import land, read_table
from mmat.reproduce.readme_tables import update
from mmat.reproduce.recipe import name_of, read_recipe
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
    """What is wrong with a file of results."""
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
            yield f'{name}: no such cell in the recipe'
            continue
        if (row['recipe'], row['published'], row['metric'], row['measure']) != (
                found[1], cell.published, cell.metric, recipe.measure):
            yield f'{name}: the recipe says otherwise'
        if (row['teacher'] is None) != (cell.get('teacher') is None) or row['teacher'] and (
                name_of(cell.teacher) != row['teacher']):
            yield f'{name}: the teacher is another'
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
        taught = checkpoints.get((row['teacher'], row['teacher_seed']), row['teacher_sha256'])
        if row['teacher'] and (taught != row['teacher_sha256'] or not SHA256.fullmatch(taught or '')):
            yield f'{name}: another teacher taught'
        key = row['row'], row['column'], row['seed']
        if key in seen:
            yield f'{name}: twice in a cell'
        seen.add(key)


def wrong_checkpoints(root, entries, results):
    """What is wrong with the checkpoints: each has a hash, a log, a row, and a metafile entry, which has it."""
    index = weights.read_index(root)
    folder = root / 'checkpoints'
    expected = {'README.md', *(['index.csv'] if (folder / 'index.csv').is_file() else [])}
    for entry in index:
        path, name = folder / entry['file'], entry['file']
        log = path.with_name(f'{path.stem}.log.json')
        expected |= {path.name, log.name}
        if not path.is_file() or not log.is_file():
            yield f'{name}: it, or its log, is not there'
            continue
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry['sha256'] or not name.endswith(f'-{entry["sha256"][:8]}.pth'):
            yield f'{name}: its hash is another'
            continue
        if len(content) != entry['bytes'] or len(content) > LIMITS['checkpoint'] or log.stat().st_size > LIMITS['log']:
            yield f'{name}: its size, or that of its log'
        row = next((row for row in results.get(entry['results'], ()) if (row['config'], row['seed']) == (
            entry['config'], entry['seed'])), None)
        if row is None or row['checkpoint_sha256'] != entry['checkpoint_sha256']:
            yield f'{name}: no row of results is its'
            continue
        shortened = '' if row['epochs'] == row['planned_epochs'] else f'_{row["epochs"]}of{row["planned_epochs"]}e'
        if not name.startswith(f'{entry["config"]}{shortened}_{row["date"].replace("-", "")}-'):
            yield f'{name}: it is called as if it were another'
        if abs(entry['accuracy'] - accuracy(row)) > 0.05:
            yield f'{name}: tested, it gives another number than its row has'
        last = yaml.safe_load(log.read_text().splitlines()[-1])
        if last['step'] != row['epochs'] or abs(last[row['metric']] - accuracy(row)) > 1e-4:
            yield f'{name}: its log ends otherwise than its row'
        state = torch.load(path, weights_only=True)
        kinds = {value.dtype for value in state['state_dict'].values() if value.is_floating_point()}
        if kinds != {getattr(torch, entry['precision'])} or state['meta'].get('seed') != entry['seed']:
            yield f'{name}: precision or seed'
        told = entries.get(entry['config'], {})
        if (told.get('Weights'), told.get('Training Log')) != (f'checkpoints/{name}', f'checkpoints/{log.name}'):
            yield f'{name}: the metafile has another'
            continue
        planned = row['planned_epochs']
        if told['Metadata'].get('Seed') != entry['seed'] or told['Metadata'].get('Epochs') != (
                f'{row["epochs"]} of {planned}' if shortened else planned):
            yield f'{name}: the metafile says another seed, or other epochs'
    if len({entry['config'] for entry in index}) != len(index):
        yield 'a config has two checkpoints'
    if sum(entry['bytes'] for entry in index) > LIMITS['all']:
        yield 'the checkpoints are too large together'
    there = {path.name for path in folder.iterdir()}
    if there != expected:
        yield f'checkpoints has {sorted(there ^ expected)} too much or too little'


def wrong_entries(root, entries, results):
    """Metafile entries whose accuracy is neither that of their checkpoint's run nor a median."""
    index = {f'checkpoints/{entry["file"]}': entry for entry in weights.read_index(root)}
    for name, told in entries.items():
        file = told.get('Weights')
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
        if [result['Metrics'] for result in told.get('Results', ())] not in [[metrics] for metrics in allowed]:
            yield f'{name}: the metafile has {told.get("Results")}, expected one of {allowed}'


def wrong_speeds(path):
    """What is wrong with the file that the benchmarks write, if it is there."""
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
            yield f'{name}: twice'
        seen.add(key)


def git(root, *arguments):
    """Lines of what git says of a checkout; none where it is no checkout, or one without all of its history."""
    def lines(*words):
        done = subprocess.run(['git', '-C', str(root), *words], capture_output=True, text=True)
        return done.stdout.split() if done.returncode == 0 else []

    try:
        whole = lines('rev-parse', '--is-shallow-repository') == ['false'] and lines('rev-parse', '--show-toplevel')
        return lines(*arguments) if whole and Path(whole[0]).resolve() == Path(root).resolve() else []
    except OSError:
        return []


def wrong(root):
    """All that does not agree in a checkout."""
    files = [path for path in sorted((root / 'results').glob('*.csv')) if path.name != 'speed.csv']
    results = {path.stem: read_csv(path) for path in files}
    entries = {entry['Name']: entry for path in sorted(root.glob('configs/*/metafile.yml'))
               for entry in yaml.load(path.read_text(), yaml.CSafeLoader)['Models']}
    found = [each for path in files for each in wrong_rows(path, root / 'recipes')]
    found += wrong_speeds(root / 'results' / 'speed.csv')
    found += wrong_checkpoints(root, entries, results)
    found += wrong_entries(root, entries, results)
    try:
        return found + [f'{page}: its tables are out of step; python tools/misc/readme_tables.py fills them'
                        for page in update(root, write=False)]
    except ValueError as error:
        return [*found, str(error)]


def test_the_repository_agrees_with_itself():
    assert wrong(ROOT) == []


@pytest.mark.parametrize('entry', weights.read_index(ROOT), ids=lambda entry: entry['config'])
def test_a_checkpoint_is_what_its_name_loads(entry):
    network = mmat.get_model(entry['config'], pretrained=True)
    state = torch.load(ROOT / 'checkpoints' / entry['file'])['state_dict']
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key].to(value.dtype)) for key, value in network.state_dict().items())
    assert len(network._dataset_meta['classes']) == network.head.num_classes


# That the checks above can fail

@pytest.fixture(scope='module')
def landed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('landed')
    work_dir, root = make_runs(folder / 'runs'), make_checkout(folder / 'checkout')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, 'measure', lambda run, *_: ACCURACIES[run.name][run.seed])
        land(read_table(str(root / 'recipes' / 'tiny.py'), work_dir), root, [TEACHER, STUDENT])
    update(root)
    return root


@pytest.fixture
def checkout(landed, tmp_path):
    return Path(shutil.copytree(landed, tmp_path / 'checkout'))


def test_a_table_that_landed_agrees(checkout):
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
    (in_rows(value=25.5), f'{STUDENT}.*tested, it gives another number'),
    (in_rows(value=25.02), f'{STUDENT}.*its log ends otherwise'),
    (in_rows(value=25.02), f'{STUDENT}: the metafile has'),
    (in_rows(seed=1), 'seed 1: twice in a cell'),
    (in_rows(seed=7), f'{STUDENT}.*no row of results is its'),
    (in_rows(seed=7), f'checkpoints/README.md: {STUDENT}.* has no row in results/tiny.csv, seed 2 of {STUDENT}'),
    (remove('results/tiny.csv'), 'has no row in results/tiny.csv'),
    (in_rows(row='students'), 'no such cell in the recipe'),
    (in_rows(config='wrn16-1_1xb128_cifar10'), 'no such cell in the recipe'),
    (in_rows(published=9.), 'the recipe says otherwise'),
    (in_rows(measure='accuracy'), 'the recipe says otherwise'),
    (in_rows(teacher=TEACHER, teacher_seed=0), 'the teacher is another'),
    (in_rows(epochs=6), '6 of 60 epochs'),
    (in_rows(epochs=6, planned_epochs=6), '6 of 6 epochs'),
    (in_rows(commit='0123456789ab+'), r'commit 0123456789ab\+'),
    (in_rows(commit=None), 'commit None'),
    (in_rows(hardware=None), 'provenance is missing'),
    (in_rows(date='2026-01-03'), 'called as if it were another'),
    (in_rows(checkpoint_sha256='b' * 64), 'no row of results is its'),
    (teachers_hash, 'another teacher taught'),
    (in_file('README.md', '25.00', '24.00'), 'README.md: its tables are out of step'),
    (in_file('checkpoints/README.md', '75.00', '76.00'), 'checkpoints/README.md: its tables are out of step'),
    (in_file('configs/wide_resnet/metafile.yml', '75.0', '76.0'), f'{STUDENT}: the metafile has'),
    (in_file('configs/at/metafile.yml', r'Accuracy: 81\.0', 'Accuracy: 82.0'), f'{TAUGHT}: the metafile has'),
    (in_file('configs/wide_resnet/metafile.yml', 'Epochs: 60', 'Epochs: 6'), 'says another seed, or other epochs'),
    (in_file('configs/wide_resnet/metafile.yml', 'Seed: 2', 'Seed: 1'), 'says another seed, or other epochs'),
    (in_file('configs/wide_resnet/metafile.yml', f'Weights: checkpoints/{STUDENT}', 'Weights: checkpoints/x'),
     'the metafile has another'),
    (in_file('configs/wide_resnet/metafile.yml', f'Log: checkpoints/{STUDENT}', 'Log: checkpoints/x'),
     'the metafile has another'),
    (in_file('configs/at/metafile.yml', f'(Config: configs/at/{TAUGHT}.py)', r'\1\n    Weights: checkpoints/a.pth'),
     'a.pth is not in the index'),
    (remove(f'checkpoints/{STUDENT}*.pth'), f'{STUDENT}.* is not there'),
    (remove(f'checkpoints/{STUDENT}*.json'), f'{STUDENT}.* is not there'),
    (remove('checkpoints/index.csv'), 'is not in the index'),
    (lambda root: (root / 'checkpoints' / 'a.pth').touch(), r"\['a.pth'\] too much"),
    (lambda root: next(root.glob(f'checkpoints/{STUDENT}*.pth')).write_bytes(b'a'), 'its hash is another'),
    (in_file('checkpoints/index.csv', ',[0-9]{6},float16', ',1,float16'), 'its size'),
    (in_file('checkpoints/index.csv', ',float16', ',float32'), 'precision or seed'),
    (in_file(f'checkpoints/{STUDENT}*.log.json', r'\{[^\n]*\}\n$', ''), 'its log ends otherwise'),
])
def test_what_does_not_agree_is_told(damage, message, checkout):
    damage(checkout)
    found = wrong(checkout)
    assert any(re.search(message, each) for each in found), found


@pytest.mark.parametrize('limit, message', [('checkpoint', 'its size'), ('log', 'that of its log'),
                                            ('all', 'too large together')])
def test_the_limits(limit, message, landed, monkeypatch):
    monkeypatch.setitem(LIMITS, limit, 1000)
    assert any(message in each for each in wrong(landed))


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
        assert check(row, row) == ['speed.csv: R1, a / b: twice'] and check(row, {**row, 'setting': 'bf16'}) == []
        assert 'columns' in check(row, columns=SPEED_COLUMNS[1:])[0]
        # Without the history nobody can tell.
        shutil.rmtree(tmp_path / '.git')
        assert check({**row, 'commit': '0123456789ab'}) == []
