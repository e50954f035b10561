"""Commands of the documentation: their words, arguments, inputs and outputs."""
import argparse
import itertools
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmat.apis.launch import load_config
from mmat.models.distillers import teachers_of
from mmat.reproduce.recipe import plan, read_recipe, table_name
from mmat.utils.zoo import find_config, list_models

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # a requirement of pytest

ROOT = Path(__file__).parents[1]
# Launch scripts: the tool that they start, and the positions of the arguments that they do not pass to it.
LAUNCHERS = {'tools/dist_train.sh': ('train.py', (1, )), 'tools/dist_test.sh': ('test.py', (2, )),
             'tools/slurm_train.sh': ('train.py', (0, 1)), 'tools/slurm_test.sh': ('test.py', (0, 1))}


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


def tool_of(words, monkeypatch):
    """Return the tool that a command starts, such as 'tools/train.py', and its arguments; None for other programs."""
    variables = dict(word.split('=', 1) for word in itertools.takewhile(re.compile('[A-Z_]+=').match, words))
    monkeypatch.syspath_prepend(str(ROOT / variables.get('PYTHONPATH', '')))
    program, *words = words[len(variables):]
    if program in LAUNCHERS:
        tool, others = LAUNCHERS[program]
        return f'tools/{tool}', [word for index, word in enumerate(words) if index not in others]
    return (words[0], words[1:]) if program == 'python' and words[0].endswith('.py') else (None, words)


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


def check_command(words, monkeypatch):
    """Parse a command, and check that the files, configs, keys and extras that it names exist."""
    tool, options = tool_of(words, monkeypatch)
    if tool:
        assert (ROOT / tool).is_file(), tool
        args = parse(ROOT / tool, options, monkeypatch)
        assert not hasattr(args, 'recipe') or (ROOT / args.recipe).is_file(), args.recipe
        if not hasattr(args, 'config') or args.config is None:
            return
        config = Config.fromfile(find_config(args.config))
        for key in getattr(args, 'cfg_options', None) or {}:
            *parents, _ = key.split('.')
            value = config
            for part in parents:
                value = value[int(part) if isinstance(value, (list, tuple)) else part]
    elif words[0] == 'mim':
        for option, word in zip(words[1:], words[2:]):
            if word.endswith('.py') or option == '--config':
                assert Path(word).stem in list_models(), word
    elif words[:2] == ['pip', 'install']:
        extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
        wanted = re.findall(r'\[(.*?)\]', ' '.join(words))
        assert set(','.join(wanted).split(',')) - {''} <= extras.keys()


def table_folder(args):
    """Return the work directory of ``tools/reproduce.py``."""
    return Path(args.work_dir or Path('work_dirs', table_name(args.recipe, args.epochs_scale)))


def table_runs(args, seeds=None, options=None):
    """Return the runs of ``tools/reproduce.py``."""
    runs = plan(read_recipe(str(ROOT / args.recipe)), table_folder(args), seeds or args.seeds, args.only,
                args.epochs_scale, args.gpus_per_run, options)
    return [run for by_seed in runs.values() for run in by_seed]


def inputs_and_outputs(words, monkeypatch, text=''):
    """Return the paths in ``work_dirs`` that a command reads, and those that it writes: path -> config of a run.

    Runs of a table are listed, which takes seconds, if ``text`` names one.
    """
    tool, options = tool_of(words, monkeypatch)
    if not tool:
        return [], {}
    args = parse(ROOT / tool, options, monkeypatch)
    written = {getattr(args, name, None): None for name in ('out', 'out_dir', 'out_file', 'show_path')}
    config = load_config(args) if tool in ('tools/train.py', 'tools/test.py') else None
    if tool == 'tools/reproduce.py':
        runs = table_runs(args) if f'{table_folder(args)}/' in text else []
        written.update({str(run.work_dir): run.config for run in runs})
        written[str(table_folder(args) / 'report.html')] = None
    elif tool == 'tools/train.py':
        seeds = [f'/seed{seed}' for seed in args.seeds or ()] or ['']
        written.update({config.work_dir + seed: args.config for seed in seeds})
    read = [part for word in options for part in re.findall(r'(?:^|[=:])(work_dirs/.*)', word)]
    if tool == 'tools/train.py' or getattr(args, 'teacher', False):
        config = config or Config.fromfile(find_config(args.config))
        config.merge_from_dict(args.cfg_options or {})
        read += [teacher.get('checkpoint') for teacher in teachers_of(config.model).values()]
    elif tool == 'tools/linear_probe.py':
        read.append({**Config.fromfile(find_config(args.config)), **(args.cfg_options or {})}['checkpoint'])
    inside = {path: run for path, run in written.items() if path and path.startswith('work_dirs/')}
    own = {*inside, getattr(args, 'work_dir', None)}
    return [path for path in read if path and path.startswith('work_dirs/') and path not in own], inside
