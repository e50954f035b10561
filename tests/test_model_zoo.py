"""Metafiles and READMEs against the networks, the results and each other."""
import hashlib
import re

import pytest
import torch
from mmengine.fileio import load
from torch.utils.flop_counter import FlopCounterMode
from zoo_table import (
    CONFIGS,
    DISTILLATION,
    ENTRIES,
    FAMILY,
    METAFILES,
    ROOT,
    cheaply,
    config_of,
    data_of,
    every_config,
    measured,
    published,
    student_name,
)

from mmat.models import build_network

KEYS = {'Name', 'Metadata', 'In Collection', 'Config', 'Results', 'Weights', 'Training Log'}
METADATA = {'FLOPs', 'Parameters', 'Training Data', 'Student', 'Teacher', 'Method', 'Epochs', 'Seed'}
# Columns of a table of models, without their units. Networks that are always alone need no teacher column.
COLUMNS = ['Model', 'Teacher', 'Params', 'FLOPs', 'Published', 'Measured', 'Config', 'Weights']
NUMBERS = re.compile(r'(?:Published|Measured) (error|accuracy)(, top-1 / top-5)? \(%\)')
READMES = sorted(ROOT.glob('configs/*/README.md'))


def multiply_accumulates(network, size):
    """Count those of all matrix products of one image, convolutions and attention included."""
    device = next(network.parameters()).device
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size, device=device))
    return counter.get_total_flops() // 2


# Metafiles

def test_the_metafiles_list_the_configs():
    assert set(ENTRIES) == set(CONFIGS)
    assert sum(len(load(metafile)['Models']) for metafile in METAFILES) == len(CONFIGS)
    assert sorted(ROOT / path for path in load(ROOT / 'model-index.yml')['Import']) == METAFILES


@every_config
def test_a_metafile_entry_describes_its_network(name):
    entry = ENTRIES[name]
    dataset, _, size = data_of(name)
    with cheaply(name):
        network = build_network(name)
        assert entry['Metadata']['FLOPs'] == multiply_accumulates(network, size)
    assert ROOT / entry['Config'] == CONFIGS[name]
    assert entry['Metadata']['Training Data'] == dataset
    assert entry['Metadata']['Parameters'] == sum(parameter.numel() for parameter in network.parameters())
    assert KEYS >= entry.keys() and METADATA >= entry['Metadata'].keys()
    if name in DISTILLATION:
        assert entry['Metadata']['Student'] == student_name(name) in ENTRIES
        teacher = config_of(name).model.get('teacher', {}).get('model')
        expected = teacher if teacher is None or isinstance(teacher, str) else f'timm {teacher.model_name}'
        assert entry['Metadata'].get('Teacher') == expected
        assert entry['Metadata']['Method']
    else:
        assert not {'Student', 'Teacher', 'Method'} & entry['Metadata'].keys()


@every_config
def test_results_are_numbers_and_weights_are_named_by_their_hash(name):
    entry = ENTRIES[name]
    for result in entry.get('Results', []):
        assert {'Dataset', 'Metrics', 'Task'} == result.keys()
        assert (result['Dataset'], result['Task']) == (entry['Metadata']['Training Data'], 'Image Classification')
        assert result['Metrics'] and all(isinstance(value, float) and 0 < value < 100
                                         for value in result['Metrics'].values())
    weights = entry.get('Weights')
    if weights is None:
        return
    file_hash = re.search(r'-([0-9a-f]{8})\.pth$', weights)
    assert file_hash, weights
    if '://' in weights:
        assert weights.startswith('https://')
    else:
        assert hashlib.sha256((ROOT / weights).read_bytes()).hexdigest().startswith(file_hash[1])
        # Weights of this project; test_results.py checks which run they come from.
        assert (ROOT / entry['Training Log']).is_file() and entry['Results']
        assert isinstance(entry['Metadata']['Seed'], int) and entry['Metadata']['Epochs']


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_metafile_references_exist(metafile):
    content = load(metafile)
    for collection in content['Collections']:
        assert (ROOT / collection['README']) == metafile.with_name('README.md')
        assert collection['Paper']['URL'].startswith('https://') and collection['Paper']['Title']
        code = collection['Code']['URL']
        assert code.startswith('https://') or (ROOT / code).is_file()
    names = {collection['Name'] for collection in content['Collections']}
    assert {entry['In Collection'] for entry in content['Models']} == names


def test_openmims_reader_takes_the_index():
    from modelindex.load_model_index import load as load_index
    index = load_index(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert {model.name for model in index.models} == set(CONFIGS)


# READMEs

def tables(readme):
    """Yield the header and the rows, as lists of cells, of every table."""
    table = []
    for line in [*readme.read_text().splitlines(), '']:
        if line.startswith('|'):
            table.append([cell.strip() for cell in line.strip().strip('|').split('|')])
        elif table:
            header, _, *rows = table
            assert all(len(row) == len(header) for row in rows), (readme, header)
            yield header, rows
            table = []


def model_rows(readme):
    """Yield the rows of the tables of models, as dicts."""
    for header, rows in tables(readme):
        if header[0] == 'Model':
            assert [column.split()[0] for column in header] in (COLUMNS, COLUMNS[:1] + COLUMNS[2:]), (readme, header)
            assert [bool(NUMBERS.fullmatch(column)) for column in header[-4:]] == [True, True, False, False], header
            for row in rows:
                yield dict(zip(header, row))


def linked(readme, cell):
    """Return the targets of a cell's links: URLs, and paths of files."""
    return [target if '://' in target else (readme.parent / target).resolve()
            for target in re.findall(r'\[[^]]*\]\(([^)\s]+)\)', cell)]


def is_rounded(cell, value):
    """Whether a cell is a number rounded to the digits that it has."""
    return f'{value:.{len(cell.partition(".")[2])}f}' == cell


def weights_of(name):
    """Return what a cell with a config's weights links to: the file and its log."""
    found = [ENTRIES[name][key] for key in ('Weights', 'Training Log') if key in ENTRIES[name]]
    return [target if '://' in target else ROOT / target for target in found]


def numbers_of(column):
    """Return 'error' or 'accuracy', and 1 for top-1 or 2 for top-1 and top-5."""
    measure, both = NUMBERS.fullmatch(column).groups()
    return measure, 2 if both else 1


def check_size(column, cell, entry, card):
    facts = entry['Metadata']
    key, unit = re.fullmatch(r'(Params|FLOPs) \(([MG])\)', column).groups()
    value = facts['Parameters' if key == 'Params' else 'FLOPs'] / {'M': 1e6, 'G': 1e9}[unit]
    if not card:
        assert is_rounded(cell, value), column
    elif key == 'Params':
        assert abs(float(cell) - value) < 0.006
    else:
        # mmpretrain's card counts pooling and the like.
        assert 1 <= float(cell) / value < 1.005


@pytest.mark.parametrize('readme', READMES, ids=lambda path: path.parent.name)
def test_tables_of_models_agree_with_metafiles_and_results(readme):
    for row in model_rows(readme):
        name = row['Model'].strip('`')
        assert row['Model'] == f'`{name}`' and linked(readme, row['Config']) == [CONFIGS[name]], row
        assert linked(readme, row['Weights']) == weights_of(name), row
        assert bool(weights_of(name)) == (row['Weights'] != '-'), row
        teacher = ENTRIES[name]['Metadata'].get('Teacher')
        cell = row.get('Teacher', '-')
        if teacher in CONFIGS:
            assert linked(readme, cell) == [CONFIGS[teacher]] and cell.startswith(f'[{teacher.split("_")[0]}]'), row
        else:
            assert cell == (f'`{teacher}`' if teacher else '-'), row
        for column, cell in row.items():
            if column.startswith(('Params', 'FLOPs')):
                check_size(column, cell, ENTRIES[name], card=readme.parent.name == 'vgg')
            elif column.startswith('Published'):
                expected = published(name, *numbers_of(column))
                found = None if cell == '-' else tuple(float(each) for each in cell.strip('*').split(' / '))
                assert found == expected, row
            elif column.startswith('Measured'):
                expected = measured(name, *numbers_of(column))
                if expected is not None:
                    values, epochs = expected
                    expected = ' / '.join(f'{value:.2f}' for value in values)
                    expected += f' ({epochs} epochs)' if epochs else ''
                assert cell == (expected or '-'), row


@pytest.mark.parametrize('readme', READMES, ids=lambda path: path.parent.name)
def test_filled_tables_link_to_the_weights_of_the_metafiles(readme):
    for header, rows in tables(readme):
        for row in (dict(zip(header, row)) for row in rows):
            if row.get('checkpoint'):
                config, = linked(readme, row['config'])
                assert CONFIGS[config.stem] == config
                assert linked(readme, row['checkpoint']) == weights_of(config.stem), row


@pytest.mark.parametrize('readme', READMES, ids=lambda path: path.parent.name)
def test_tables_of_models_list_every_config_of_the_folder(readme):
    listed = {row['Model'].strip('`') for row in model_rows(readme)}
    assert {name for name in CONFIGS if FAMILY[name] == readme.parent.name} - listed == set()


@pytest.mark.parametrize('readme', READMES, ids=lambda path: path.parent.name)
def test_readmes_have_the_usual_sections(readme):
    text = readme.read_text()
    titles = re.findall(r'^## (.*)$', re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    assert titles == ['Introduction', 'How to use it', 'Results and models', 'Citation']
    assert re.match(r'# \S.*\n\n> \[.+\]\(https://\S+\)\n', text) and '```bibtex\n@' in text
    for metafile in load(readme.with_name('metafile.yml'))['Collections']:
        assert f'[{metafile["Paper"]["Title"]}]' in text.splitlines()[2]


@pytest.mark.parametrize('readme', READMES, ids=lambda path: path.parent.name)
def test_commands_and_snippets_name_what_exists(readme):
    blocks = re.findall(r'^```(python|bash)\n(.*?)^```$', readme.read_text(), re.MULTILINE | re.DOTALL)
    code = {language: ''.join(text for each, text in blocks if each == language) for language in ('python', 'bash')}
    commands = [line for line in code['bash'].splitlines() if 'tools/' in line]
    assert any('train.py' in line or 'dist_train.sh' in line for line in commands)
    assert any('tools/test.py' in line for line in commands) and 'mmat.get_model(' in code['python']
    files = re.findall(r'(?:tools|configs|recipes)/[\w./-]+', code['bash'])
    assert files and [file for file in files if not (ROOT / file).is_file()] == []
    names = re.findall(r"(?:get|inference)_model\('([^']+)'", code['python'])
    assert names and set(names) <= set(CONFIGS)
    assert [name for name in re.findall(r'work_dirs/([\w-]+)', ''.join(code.values())) if name not in CONFIGS] == []
    # Zoo weights, where they are used.
    zoo = re.findall(r"get_model\('([^']+)', pretrained=True\)|inference_model\('([^']+)', '[^']+'\)", code['python'])
    assert [name for pair in zoo for name in pair if name and 'Weights' not in ENTRIES[name]] == []


def test_the_sections_that_readmes_link_to_exist():
    for readme in READMES:
        for path, section in re.findall(r'\]\(([^)\s#:]*)#([\w-]+)\)', readme.read_text()):
            target = (readme.parent / path).resolve() if path else readme
            titles = [re.sub(r'[^\w\s-]', '', title.lower()).strip().replace(' ', '-')
                      for title in re.findall(r'^#+ (.*)$', target.read_text(), re.M)]
            assert section in titles, (readme, path, section)
