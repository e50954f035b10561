"""Tests of the documentation: it builds without warnings, snippets run, commands parse, links resolve.

The ``python`` blocks of a page run in order, with common variables. A block that only assigns plain values is a config:
it is read as one, and its model, teacher or table is built. ``<!-- not run: reason -->`` before a block excludes it. If
the comment after an expression is a value, the expression must equal it. Commands in ``bash`` blocks are not run: their
arguments are parsed, and the files, configs and keys that they name must exist.
"""
import argparse
import ast
import copy
import importlib.util
import io
import itertools
import re
import runpy
import shlex
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import Registry
from PIL import Image

from mmat import registry
from mmat.models import build_network
from mmat.models.distillers import Teacher
from mmat.registry import DATASETS, MODELS
from mmat.reproduce.recipe import plan, read_recipe
from mmat.utils.zoo import find_config, list_models

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
SKIPPED = ('data', 'work_dirs', 'build', 'dist')
REGISTRIES = [each for each in vars(registry).values() if isinstance(each, Registry) and each.scope == 'mmat']


def _repository():
    spec = importlib.util.spec_from_file_location('docs_repository', DOCS / 'repository.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


repository = _repository()
# Pages with their includes expanded; README.md is `index`.
PAGES = {path.stem: repository.expand(path.read_text(), path) for path in sorted(DOCS.glob('*.md'))}
BLOCK = re.compile(r'(<!-- not run: \S.*? -->\n)?^```(\w+)\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page, *languages):
    return [code for excluded, language, code in BLOCK.findall(PAGES[page]) if language in languages and not excluded]


# The site

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp('site')
    done = subprocess.run([sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-n', '-q', '-E', '-b', 'html', '-d',
                           str(target / 'doctrees'), str(DOCS), str(target / 'html')], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return target / 'html'


def test_site_builds_without_warnings(site):
    assert all((site / f'{page}.html').is_file() for page in PAGES)
    for readme in ROOT.glob('configs/*/README.md'):
        assert readme.read_text().splitlines()[0].strip('# ') in (
            site / 'families' / f'{readme.parent.name}.html').read_text()


def test_zoo_page_lists_every_model_with_its_config(site):
    cells = [re.findall(r'<td><p>(.*?)</p></td>', row, re.DOTALL)
             for row in re.findall(r'<tr.*?</tr>', (site / 'model_zoo.html').read_text(), re.DOTALL) if '<td>' in row]
    rows = {re.sub('<.*?>', '', row[0]): row for row in cells}
    assert sorted(rows) == list_models()
    for metafile in ROOT.glob('configs/*/metafile.yml'):
        for entry in load(metafile)['Models']:
            link, data, parameters, _, results, weights = rows[entry['Name']]
            target = site / re.search(r'href="([^"]+)"', link)[1]
            assert target.read_text() == (ROOT / entry['Config']).read_text()
            assert (data, parameters) == (entry['Metadata']['Training Data'], f'{entry["Metadata"]["Parameters"]:,}')
            assert (results == '–') == ('Results' not in entry)
            assert all(f'{value:.2f}' in results for result in entry.get('Results', ())
                       for value in result['Metrics'].values())
            assert Path(entry.get('Weights', '')).name in weights and bool(weights) == ('Weights' in entry)
            epochs = str(entry['Metadata'].get('Epochs', ''))
            assert ' of ' not in epochs or f'{epochs} epochs' in results
    assert rows['wrn16-1_at-wrn16-2_1xb128_cifar10'][1:4] == ['CIFAR-10', '175,066', '26.7 M']


def test_api_page_has_every_type(site):
    page = (site / 'api.html').read_text()
    # Other tests register types as well.
    types = [name for each in REGISTRIES for name, kind in each.module_dict.items()
             if kind.__module__.startswith('mmat.')]
    assert len(types) > 20
    assert [name for name in types if not re.search(rf'id="mmat\.[\w.]*\b{name}"', page)] == []


# Python

@pytest.fixture
def namespace(tmp_path, monkeypatch):
    """Variables of a page, in a folder that has PICTURES only; types that snippets register are removed afterwards."""
    monkeypatch.chdir(tmp_path)
    Path('PICTURES').mkdir()
    Image.new('RGB', (40, 30), 'red').save('PICTURES/red.png')
    before = [dict(each.module_dict) for each in REGISTRIES]
    torch.manual_seed(0)
    yield dict(__name__='page', images=torch.randint(256, (2, 3, 32, 32)).float())
    for each, types in zip(REGISTRIES, before):
        each._module_dict = types


def is_config(code):
    """Return whether a block only assigns constants, and lists and dicts of them."""
    tree = ast.parse(re.sub(r'\{\{.*?\}\}', "'base'", code))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return (all(isinstance(node, ast.Assign) for node in tree.body) and bool(calls or '_base_' in code)
            and all(isinstance(node.func, ast.Name) and node.func.id == 'dict' for node in calls)
            and not any(isinstance(node, ast.Attribute) and getattr(node.value, 'id', None) != '_base_'
                        for node in ast.walk(tree)))


def read_config(code, namespace):
    """Read a block as a file of configs/mine, build its model, teacher or table, and keep its variables."""
    folder = Path('configs', 'mine')
    folder.mkdir(parents=True, exist_ok=True)
    for family in ROOT.glob('configs/*/'):
        link = folder.parent / family.name
        if not link.exists():
            link.symlink_to(family)
    (folder / 'config.py').write_text(code)
    config = Config.fromfile(folder / 'config.py')
    namespace.update(config.to_dict())
    if 'cells' in config:
        recipe = read_recipe(folder / 'config.py')
        assert set(plan(recipe, Path('work_dirs'))) == {Path(cell.config).stem for cell in recipe.cells}
    if 'type' in config.get('model', {}):
        MODELS.build(copy.deepcopy(config.model))
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert loader not in config or DATASETS.get(config[loader].dataset.type)
    if '_base_.' not in code:
        for statement in ast.parse(code).body:
            scope = {}
            exec(compile(ast.Module([statement], []), 'config', 'exec'), scope)
            if 'teacher' in scope:
                Teacher(**scope['teacher'])


def run(code, namespace):
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = {token.start[0]: token.string.strip('# ') for token in tokens if token.type == tokenize.COMMENT}
    for statement in ast.parse(code).body:
        if not isinstance(statement, ast.Expr):
            exec(compile(ast.Module([statement], []), 'snippet', 'exec'), namespace)
            continue
        value = eval(compile(ast.Expression(statement.value), 'snippet', 'eval'), namespace)
        try:
            expected = ast.literal_eval(comments.get(statement.end_lineno, '?'))
        except (SyntaxError, ValueError):
            continue
        assert (tuple(value) if isinstance(value, torch.Size) else value) == expected, ast.unparse(statement)


@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page, 'python')])
def test_snippets_run(page, namespace):
    snippets = blocks(page, 'python')
    # Checkpoints that the page's commands would have trained.
    for name in set(re.findall(r"'work_dirs/([^'/]+)'", ''.join(code for code in snippets if not is_config(code)))):
        folder = Path('work_dirs', name)
        folder.mkdir(parents=True)
        torch.save(dict(state_dict=build_network(name).state_dict()), folder / 'epoch_1.pth')
    for code in snippets:
        (read_config if is_config(code) else run)(code, namespace)


def test_wrong_snippets_fail(namespace):
    run('a = 2\na + 1  # 3\na * a  # squared', namespace)
    for code in ('a + 1  # 4', 'absent', 'import mmat.absent'):
        with pytest.raises((AssertionError, NameError, ImportError)):
            run(code, namespace)
    assert is_config("_base_ = '../at/a.py'\nmodel = dict(a={{_base_.model}})") and is_config('a = dict(b=[1, (2, 3)])')
    assert not is_config('import mmat') and not is_config('a = attention_map(dict(b=1))') and not is_config('a = 1')
    for code in ("model = dict(type='mmat.Absent')", "_base_ = '../at/absent.py'", "teacher = dict(model='absent')"):
        with pytest.raises((KeyError, FileNotFoundError)):
            read_config(code, namespace)


# Shell

class Parsed(Exception):
    pass


def commands(code):
    """Yield the words of each command, with the variables set before it."""
    for line in code.replace('\\\n', ' ').splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for operator, words in itertools.groupby(lexer, lambda word: set(word) <= set('&|;<>(){}')):
            if not operator:
                yield list(words)


def parse(script, words, monkeypatch):
    """Return the parsed arguments of a script, which stops there."""

    def stopping(method):
        def stop(parser, *args, **kwargs):
            raise Parsed(method(parser, *args, **kwargs))
        return stop

    with monkeypatch.context() as patch, pytest.raises(Parsed) as parsed:
        for name in ('parse_args', 'parse_intermixed_args'):
            patch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
        patch.setattr(sys, 'argv', [str(script), *words])
        patch.syspath_prepend(str(script.parent))  # as `python SCRIPT` does
        patch.setenv('LOCAL_RANK', '0')
        runpy.run_path(str(script), run_name='__main__')
    return parsed.value.args[0]


# Launch scripts: the tool that they start, and the positions of the arguments that they do not pass to it.
LAUNCHERS = {'tools/dist_train.sh': ('train.py', (1, )), 'tools/dist_test.sh': ('test.py', (2, )),
             'tools/slurm_train.sh': ('train.py', (0, 1)), 'tools/slurm_test.sh': ('test.py', (0, 1))}


def check_command(words, monkeypatch):
    variables = dict(word.split('=', 1) for word in itertools.takewhile(re.compile('[A-Z_]+=').match, words))
    monkeypatch.syspath_prepend(str(ROOT / variables.get('PYTHONPATH', '')))
    program, *words = words[len(variables):]
    if program in LAUNCHERS:
        tool, others = LAUNCHERS[program]
        program, words = 'python', [f'tools/{tool}', *(word for i, word in enumerate(words) if i not in others)]
    if program == 'python' and words[0].endswith('.py'):
        assert (ROOT / words[0]).is_file(), words[0]
        args = parse(ROOT / words[0], words[1:], monkeypatch)
        assert not hasattr(args, 'recipe') or (ROOT / args.recipe).is_file(), args.recipe
        if not hasattr(args, 'config') or args.config is None:
            return
        config = Config.fromfile(find_config(str(ROOT / args.config) if '/' in args.config else args.config))
        for key in getattr(args, 'cfg_options', None) or {}:
            *parents, _ = key.split('.')
            value = config
            for part in parents:
                value = value[int(part) if isinstance(value, (list, tuple)) else part]
    elif program == 'mim':
        for option, word in zip(words, words[1:]):
            if word.endswith('.py') or option == '--config':
                assert Path(word).stem in list_models(), word
    elif program == 'pip' and words[0] == 'install':
        extras = set(re.findall(r"^    '(\w+)': \[|^EXTRAS\['(\w+)'\]", (ROOT / 'setup.py').read_text(), re.MULTILINE))
        wanted = re.findall(r'\[(.*?)\]', ' '.join(words))
        assert set(','.join(wanted).split(',')) - {''} <= {first or second for first, second in extras}


@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page, 'bash')])
def test_commands_parse(page, monkeypatch):
    for code in blocks(page, 'bash'):
        for words in commands(code):
            check_command(words, monkeypatch)


@pytest.mark.parametrize('command', [
    'python tools/absent.py', 'python tools/train.py', 'python tools/train.py wrn16-1_1xb10_digits --sed 0',
    'python tools/train.py configs/at/absent.py', 'tools/dist_test.sh wrn16-1_1xb10_digits work_dirs/run 2 --resume',
    'tools/slurm_train.sh PARTITION JOB absent', 'mim train mmat absent.py', "pip install -e '.[absent]'",
    'python tools/reproduce.py recipes/absent.py',
    'python tools/train.py wrn16-1_1xb10_digits --cfg-options train_dataloadr.batch_size=2'])
def test_wrong_commands_fail(command, monkeypatch, capsys):
    words, = commands(command)
    with pytest.raises((AssertionError, SystemExit, FileNotFoundError, KeyError)):
        check_command(words, monkeypatch)


# Links

def documents():
    # The checkout may contain a virtual environment, under any name.
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != '.' and path.name not in SKIPPED
               and not (path / 'pyvenv.cfg').is_file()]
    found = [*ROOT.glob('*.md'), *(path for folder in folders for path in folder.rglob('*.md'))]
    return sorted(path for path in found if not {'families', '_build', 'egg-info'} & set(path.parts))


def anchors(text):
    """Return the anchors that GitHub and MyST give to headings."""
    text = re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
            for heading in re.findall(r'^#+ (.*?)\s*$', text, re.MULTILINE)}


def broken_links(path):
    text = path.read_text()
    prose = re.sub(r'^```.*?^```$|`[^`\n]*`', '', text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r'\]\(([^()\s]+)\)', prose):
        name, _, anchor = target.partition('#')
        if '://' in target:
            continue
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            yield target
        elif anchor:
            content = PAGES[file.stem] if file.parent == DOCS else file.read_text()
            if anchor not in anchors(content):
                yield target


@pytest.mark.parametrize('path', documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path):
    assert list(broken_links(path)) == []


@pytest.mark.parametrize('path', documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_have_a_header(path):
    text = re.sub(r'```.*?```', '', path.read_text(), flags=re.DOTALL)
    for table in re.findall(r'(?:^\|.*\n?)+', text, re.MULTILINE):
        head, rule, *rows = table.strip().split('\n') + ['', '']
        assert set(rule) <= set('|-: ') and len(rule) > 2, head


def test_broken_links_are_found(tmp_path):
    path = tmp_path / 'page.md'
    path.write_text('# A title, with "signs"\n[a](page.md#a-title-with-signs) [b](#absent) [c](absent.md) `[d](e)`\n')
    assert list(broken_links(path)) == ['#absent', 'absent.md']
