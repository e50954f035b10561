"""The metafiles and the READMEs say what is so."""
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
    METAFILES,
    ROOT,
    cheaply,
    config_of,
    data_of,
    every_config,
    student_name,
)

from mmat.models import build_network

KEYS = {'Name', 'Metadata', 'In Collection', 'Config', 'Results', 'Weights', 'Training Log'}
METADATA = {'FLOPs', 'Parameters', 'Training Data', 'Student', 'Teacher', 'Method', 'Epochs', 'Seed'}
MACS = 'multiply-accumulates'
READMES = sorted(ROOT.glob('configs/*/README.md'))


def multiply_accumulates(network, size):
    """Of all products of matrices, convolutions and sums under attention among them, for one image."""
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
def test_a_metafile_entry_tells_the_truth(name):
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
        called = teacher if teacher is None or isinstance(teacher, str) else f'timm {teacher.model_name}'
        assert entry['Metadata'].get('Teacher') == called
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
    published = re.search(r'-([0-9a-f]{8})\.pth$', weights)
    assert published, weights
    if '://' in weights:
        assert weights.startswith('https://')
    else:
        assert hashlib.sha256((ROOT / weights).read_bytes()).hexdigest().startswith(published[1])
        # Of a run of ours, and test_results.py knows which.
        assert (ROOT / entry['Training Log']).is_file() and entry['Results']
        assert isinstance(entry['Metadata']['Seed'], int) and entry['Metadata']['Epochs']


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_what_a_metafile_refers_to_is_there(metafile):
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

def rows(readme):
    """Rows of the tables: column -> cell, for the columns that are not empty."""
    header = None
    for line in readme.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip('|').split('|')] if line.startswith('|') else None
        if cells is None:
            header = None
        elif header is None:
            header = cells
        elif not set(line) <= set('|-: '):
            assert len(cells) == len(header), line
            yield {column: cell for column, cell in zip(header, cells) if cell}


def config_links(text):
    return re.findall(r'\[[^]]*\]\(([^)\s]+\.py)\)', text)


def leading_number(cell):
    """``26.7 M`` as 26.7 and 1e6 and its unit in the last place; ``175,066`` as 175066."""
    number, unit = re.match(r'([\d,.]+)\s*([MG]?)', cell).groups()
    number = number.replace(',', '')
    digits = len(number.partition('.')[2])
    scale = {'': 1, 'M': 1e6, 'G': 1e9}[unit]
    return float(number) * scale, 0.5 * scale / 10**digits


@pytest.mark.parametrize('readme', READMES, ids=lambda path: path.parent.name)
def test_a_readmes_tables_agree_with_the_metafiles(readme):
    for row in rows(readme):
        links = config_links(row.get('config', ''))
        if len(links) != 1:
            continue
        target = (readme.parent / links[0]).resolve()
        entry = ENTRIES[target.stem]
        assert CONFIGS[target.stem] == target
        facts = entry['Metadata']
        for column, cell in row.items():
            if column == 'parameters':
                value, slack = leading_number(cell)
                assert abs(value - facts['Parameters']) <= slack, (column, row)
            elif column.startswith(MACS):
                value, slack = leading_number(cell)
                assert abs(value - facts['FLOPs']) <= slack * 1.01, (column, row)
            elif column in ('top-1, %', 'top-5, %'):
                metric = f'Top {column[4]} Accuracy'
                assert float(cell) == entry['Results'][0]['Metrics'][metric], row
            elif column == 'download' and cell.startswith('[model]'):
                assert f'[model]({entry["Weights"]})' in cell
                assert ('[log]' in cell) == ('Training Log' in entry)
                assert entry.get('Training Log', '') in cell
            elif column == 'checkpoint':
                found = [(readme.parent / link).resolve() for link in re.findall(r'\]\(([^)]*)\)', cell)]
                assert found == [ROOT / entry['Weights'], ROOT / entry['Training Log']], row
            elif column == 'parameters, M':
                assert abs(float(cell) - facts['Parameters'] / 1e6) < 0.006, row
            elif column == 'FLOPs, G':
                # The card's count has pooling and the like in it.
                assert 1 <= float(cell) / (facts['FLOPs'] / 1e9) < 1.005, row
        if 'Results' in entry and 'download' in row:
            assert {'top-1, %', 'top-5, %'} <= row.keys(), row


@pytest.mark.parametrize('readme', READMES, ids=lambda path: path.parent.name)
def test_a_readme_tells_of_every_config_beside_it(readme):
    text = readme.read_text()
    missing = [path.stem for path in sorted(readme.parent.glob('*.py'))
               if path.name not in text and path.stem not in text and not told_by_rule(path.stem, text)]
    assert not missing


def told_by_rule(name, text):
    """A name that is told without its dataset, or by the pattern that it follows."""
    stem = name.split('_1xb')[0].split('_8xb')[0]
    patterns = re.findall(r'`([\w*-]*\*[\w*-]*)`', text)
    return stem in text or any(re.fullmatch(pattern.replace('*', '.*'), name) for pattern in patterns)


def test_the_sections_that_tables_link_to_exist():
    for readme in READMES:
        for path, section in re.findall(r'\]\(([^)\s#:]*)#([\w-]+)\)', readme.read_text()):
            target = (readme.parent / path).resolve() if path else readme
            titles = [re.sub(r'[^\w\s-]', '', title.lower()).strip().replace(' ', '-')
                      for title in re.findall(r'^#+ (.*)$', target.read_text(), re.M)]
            assert section in titles, (readme, path, section)
