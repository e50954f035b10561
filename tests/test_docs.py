"""Tests of the documentation: it builds without warnings, snippets and commands run, paths exist, links resolve.

The ``python`` blocks of a page run in order, with common variables. A block that only assigns plain values is a config:
it is read as one, from the file that its first comment names, and its model, teacher or table is built.
``<!-- not run: reason -->`` before a block excludes it. If the comment after an expression is a value, the expression
must equal it. The arguments of commands in ``bash`` blocks are parsed; the files, configs and keys that they name must
exist, and a path in ``work_dirs`` must be written by an earlier command of the page or by README.md. Commands that need
only digits or drawn pictures are run, with one epoch.
"""
import ast
import copy
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import Registry
from page_commands import check_command, commands, inputs_and_outputs, parse, table_runs, tool_of
from PIL import Image
from tool_runner import run_tool

from mmat import registry
from mmat.models import build_network
from mmat.models.distillers import Teacher
from mmat.registry import DATASETS, MODELS
from mmat.reproduce.recipe import plan, read_recipe
from mmat.utils.zoo import list_models

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
FAMILIES = {path.parent.name: path.read_text() for path in sorted(ROOT.glob('configs/*/README.md'))}
ALL_PAGES = ''.join((*PAGES.values(), *FAMILIES.values()))
BLOCK = re.compile(r'(<!-- not run: \S.*? -->\n)?^```(\w+)\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page, *languages):
    return [code for excluded, language, code in BLOCK.findall(PAGES[page]) if language in languages and not excluded]


def parts(text):
    """Yield the parts of a page in order: (words, None) for a command, (None, text) for everything else."""
    end = 0
    for match in BLOCK.finditer(text):
        yield None, text[end:match.start()]
        end = match.end()
        if match[2] == 'bash':
            yield from ((words, None) for words in commands(match[3]))
        else:
            yield None, match[3]
    yield None, text[end:]


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


def write_config(code):
    """Write a block to the file that its first comment names, by default one of configs/mine."""
    named = re.match(r'# (configs/mine/\S+\.py)\n', code)
    file = Path(named[1] if named else 'configs/mine/config.py')
    file.parent.mkdir(parents=True, exist_ok=True)
    for family in ROOT.glob('configs/*/'):
        link = file.parents[1] / family.name
        if not link.exists():
            link.symlink_to(family)
    file.write_text(code)
    return file


def read_config(code, namespace):
    """Read a block as a config, build its model, teacher or table, and keep its variables."""
    file = write_config(code)
    config = Config.fromfile(file)
    namespace.update(config.to_dict())
    if 'cells' in config:
        recipe = read_recipe(file)
        assert set(plan(recipe, Path('work_dirs'))) == {Path(cell.config).stem for cell in recipe.cells}
    if 'type' in config.get('model', {}):
        MODELS.build(copy.deepcopy(config.model))
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert loader not in config or DATASETS.get(config[loader].dataset.type)
    for statement in ast.parse(re.sub(r'\{\{.*?\}\}', "'base'", code)).body:
        if getattr(statement.targets[0], 'id', None) == 'teacher':
            Teacher(**eval(compile(ast.Expression(statement.value), 'config', 'eval')))


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
def test_snippets_run(page, namespace, monkeypatch):
    snippets = blocks(page, 'python')
    paths = set(re.findall(r"'(work_dirs/[^']+)'", ''.join(code for code in snippets if not is_config(code))))
    # Checkpoints that the commands of README.md and of the page would have trained.
    runs = {**written_by('index', monkeypatch), **written_by(page, monkeypatch)} if paths else {}
    for path in paths:
        Path(path).mkdir(parents=True)
        torch.save(dict(state_dict=build_network(runs[path]).state_dict()), Path(path, 'epoch_1.pth'))
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

@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page, 'bash')])
def test_commands_parse(page, namespace, monkeypatch):
    write_named_configs(page)
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


# Work directories

def write_named_configs(page):
    for code in blocks(page, 'python'):
        if code.startswith('# configs/'):
            write_config(code)


def written_by(page, monkeypatch):
    """Return the paths in ``work_dirs`` that the commands of a page write: path -> config of a run."""
    write_named_configs(page)
    written = {}
    for code in blocks(page, 'bash'):
        for words in commands(code):
            written.update(inputs_and_outputs(words, monkeypatch, ALL_PAGES)[1])
    return written


def unwritten(text, written, monkeypatch):
    """Yield the paths in ``work_dirs`` that no earlier command writes, except those ``written`` before the page.

    Names in capitals stand for any run. Prose may also name the folder of a table.
    """
    written = {Path(path) for path in written}
    code = [match[3] for match in BLOCK.finditer(text)]
    for words, other in parts(text):
        if words is None:
            for path in map(Path, re.findall(r'work_dirs/[\w./-]*\w(?![\w./-]*[<*])', other)):
                is_table = other not in code and any(path in each.parents for each in written)
                if not (path.name.isupper() or is_table or written & {path, *path.parents}):
                    yield str(path)
        else:
            read, outputs = inputs_and_outputs(words, monkeypatch, text)
            yield from (str(path) for path in map(Path, read)
                        if not path.name.isupper() and not written & {path, *path.parents})
            written |= set(map(Path, outputs))


@pytest.mark.parametrize('page', [page for page, text in {**PAGES, **FAMILIES}.items() if 'work_dirs/' in text])
def test_work_dirs_are_written_by_an_earlier_command(page, namespace, monkeypatch):
    readme = {} if page == 'index' else written_by('index', monkeypatch)
    if page in PAGES:
        write_named_configs(page)
    assert list(unwritten({**PAGES, **FAMILIES}[page], readme, monkeypatch)) == []


@pytest.mark.parametrize('text, paths', [
    ('`work_dirs/wrn16-1_1xb10_digits`', ['work_dirs/wrn16-1_1xb10_digits']),
    ('```bash\npython tools/train.py wrn16-1_1xb10_digits\n```\n`work_dirs/wrn16-1_1xb10_digits/epoch_1.pth`', []),
    ('```bash\npython tools/test.py wrn16-1_1xb10_digits work_dirs/a\npython tools/train.py wrn16-1_1xb10_digits '
     '--work-dir work_dirs/a --seeds 0 1\npython tools/test.py wrn16-1_1xb10_digits work_dirs/a/seed1\n```',
     ['work_dirs/a']),
    ('```bash\npython tools/train.py wrn16-1_at-wrn16-2_1xb10_digits\n```', ['work_dirs/wrn16-2_1xb32_digits']),
    ('```bash\npython tools/reproduce.py recipes/at_digits.py\n```\nIn `work_dirs/at_digits`:\n'
     "```python\n'work_dirs/at_digits/wrn16-2_1xb32_digits/seed0'\n'work_dirs/wrn16-2_1xb32_digits'\n```",
     ['work_dirs/wrn16-2_1xb32_digits'])])
def test_unwritten_work_dirs_are_found(text, paths, monkeypatch):
    assert list(unwritten(text, {}, monkeypatch)) == paths


# Commands for real

def run_command(words, monkeypatch, *options):
    """Run a command, a training with one epoch (two if it resumes), and check that its outputs exist."""
    tool, arguments = tool_of(words, monkeypatch)
    outputs = inputs_and_outputs(words, monkeypatch)[1]
    if tool == 'tools/train.py':
        options = [f'train_cfg.max_epochs={2 if "--resume" in words else 1}', 'train_cfg.val_interval=1', *options]
        arguments = [word for word in arguments if not word.startswith('train_cfg.')] + ['--fp32']
    if options:
        place = arguments.index('--cfg-options') + 1 if '--cfg-options' in arguments else len(arguments)
        arguments[place:place] = [*['--cfg-options'] * (place == len(arguments)), *options]
    status, output = run_tool(tool.removeprefix('tools/'), *arguments)
    assert status in (0, None), status
    # Published files have a date and a hash in their name.
    assert all(any(Path(path).parent.glob(f'{Path(path).stem}*')) for path in outputs)
    return output


@pytest.fixture(scope='module')
def quick_start(tmp_path_factory):
    """Return a folder with the runs of the README's first command, for one seed and one epoch."""
    folder = tmp_path_factory.mktemp('quick_start')
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        command = next(words for code in blocks('index', 'bash') for words in commands(code)
                       if 'tools/reproduce.py' in words)
        tool, arguments = tool_of(command, monkeypatch)
        args = parse(ROOT / tool, arguments, monkeypatch)
        for run in table_runs(args, 1, {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1}):
            status, _ = run_tool('train.py', *run.command()[2:])
            assert status in (0, None), status
    return folder


@pytest.mark.parametrize('page', ['index', 'first_run', 'inference', 'tools', 'write_a_head'])
def test_commands_run_after_the_quick_start(page, quick_start, namespace, monkeypatch):
    shutil.copytree(quick_start / 'work_dirs', 'work_dirs')
    count = 0
    for code in blocks(page, 'bash'):
        for words in commands(code):
            tool, arguments = tool_of(words, monkeypatch)
            needs_digits = '_digits' in ''.join(arguments) or 'predictions.pkl' in ''.join(arguments)
            if tool not in (None, 'tools/reproduce.py') and needs_digits:
                run_command(words, monkeypatch)
                count += 1
    assert count or page == 'index'


def test_own_pictures(namespace, monkeypatch):
    configs = [code for code in blocks('own_data', 'python') if code.startswith('# configs/')]
    run(next(code for code in blocks('own_data', 'python') if code not in configs), namespace)
    for picture in Path('data').rglob('*.png'):
        if int(picture.stem) >= 4:
            picture.unlink()
    write_named_configs('own_data')
    loaders = [f'{phase}_dataloader.{option}' for phase in ('train', 'val', 'test')
               for option in ('num_workers=0', 'persistent_workers=False')]
    lines = [words for code in blocks('own_data', 'bash') for words in commands(code)]
    assert sum(len(code.splitlines()) for code in configs) <= 40 and len(lines) <= 6
    for words in lines:
        tool, arguments = tool_of(words, monkeypatch)
        if tool:
            run_command(words, monkeypatch, *([] if tool == 'tools/infer.py' else loaders))
    results = json.loads(Path('attention/results.json').read_text())
    assert len(results) == 4 and {result['pred_class'] for result in results} <= {'disk', 'square', 'triangle'}
    for picture in ('attention/0.png', 'attention/teacher.png'):
        assert Image.open(picture).size[0] > 64
    teacher, student = (torch.load(Path('work_dirs', name, 'epoch_1.pth'))['state_dict'] for name in (
        'resnet18_shapes', 'resnet10t_at-kd-resnet18_shapes'))
    assert teacher['head.fc.weight'].shape[0] == len(student['fc.weight']) == 3


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
