"""Tests of the statistics of the benchmarks, and short runs of their scripts."""
import contextlib
import csv
import importlib
import io
import itertools
import json
import logging
import pickle
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torchvision.datasets.cifar
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10

from mmat.errors import FileError

ROOT = Path(__file__).parents[1]
_runs = itertools.count()


@pytest.fixture(autouse=True)
def script(monkeypatch):
    """Import a script of benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    yield importlib.import_module
    assert not logging.root.manager.disable, 'the log must be enabled again'


@pytest.fixture
def common(script):
    return script('common')


# common.py

def test_the_readme_shows_the_recorded_goals(common):
    text = (ROOT / 'benchmarks' / 'README.md').read_text()
    assert text == common.readme(), 'python benchmarks/common.py'
    with open(ROOT / 'results' / 'speed.csv', newline='') as file:
        goals = [row for row in csv.DictReader(file) if row['goal']]
    for row in goals:
        found = [line for line in text.splitlines() if line.startswith(f'| {row["figure"]} | {row["what"]} | '
                                                                       f'{row["setting"]} | ')]
        assert len(found) == 1 and row['commit'] in found[0] and row['hardware'] in found[0], row
        assert f' {float(row["value"]):g} (' in found[0] and f'| {row["goal"]} |' in found[0], row
        met = eval(f'{row["value"]} {row["goal"]}')
        assert ('| yes |' in found[0], '| **no** |' in found[0]) == (met, not met), row


def test_the_goal_table_has_units_hardware_and_commit(common):
    rows = [dict(figure='R1', what='a / b', value='1.02', low='1', high='1.1', unit='ratio', goal='<= 1.03',
                 setting='fp32', hardware='one machine', commit='0123456789ab'),
            dict(figure='R3', what='share', value='2.5', low='2', high='3', unit='%', goal='<= 2', setting='',
                 hardware='another', commit='ba9876543210')]
    assert common.goal_table(rows).splitlines()[2:] == [
        '| R1 | a / b | fp32 | 1.02 (1 to 1.1) | <= 1.03 | yes | one machine | 0123456789ab |',
        '| R3 | share |  | 2.5 (2 to 3) % | <= 2 | **no** | another | ba9876543210 |']


def test_subjects_take_turns_with_a_changing_first(common):
    calls = []
    subjects = {name: lambda name=name: calls.append(name) for name in 'abc'}
    times = common.interleave(subjects, repeats=4, steps=2, warmup=1)
    assert ''.join(calls) == 'abc' + 'aabbcc' + 'bbccaa' + 'ccaabb' + 'aabbcc'
    assert {name: len(values) for name, values in times.items()} == dict(a=4, b=4, c=4)


def test_times_are_of_one_call(common, monkeypatch):
    clock = iter([10., 16., 20., 30.])
    monkeypatch.setattr(common.time, 'perf_counter', lambda: next(clock))
    assert common.interleave({'a': lambda: None}, repeats=2, steps=2) == dict(a=[3., 5.])


def test_a_ratio_is_taken_within_a_repeat(common):
    # The third repeat was ten times as slow.
    times = dict(a=[2., 3., 40., 5., 6.], b=[1., 2., 10., 5., 4.], c=[1., 1., 10., 5., 2.])
    assert common.ratio(times, 'a', 'b') == (1.5, 1.5, 2.)  # of 2, 1.5, 4, 1, 1.5
    assert common.ratio(times, 'a', ['b', 'c']) == (1., 1., 1.)  # of 1, 1, 2, 0.5, 1
    assert common.ratio(times, 'a', 2 * ['b']) == (0.75, 0.75, 1.)
    assert common.ratio(times, ['b', 'c'], 'a') == (1., 1., 1.)


def test_the_spread_is_median_and_quartiles(common):
    assert common.spread([4., 1., 3., 2.]) == (2.5, 1.75, 3.25)
    assert common.spread([4., 1., 3., 2., 9.]) == (3., 2., 4.)
    assert common.spread([7.]) == (7., 7., 7.)


@pytest.mark.parametrize('value, goal, met', [
    (1.03, '<= 1.03', True), (1.04, '<= 1.03', False), (50, '>= 50', True), (49.9, '>= 50', False), (1, '', None)])
def test_goals(common, value, goal, met):
    assert common.is_met(value, goal) is met


def test_a_malformed_goal_is_refused(common):
    with pytest.raises(ValueError, match="'<= 1.03'.*'< 1'"):
        common.row('R1', 'a / b', (1., 1., 1.), goal='< 1')


def test_the_table_shows_met_goals(common):
    rows = [common.row('R1', 'a / b', (1.02345, 1., 1.1), goal='<= 1.03', repeats=5, setting='fp32'),
            common.row('R3', 'speed', (40., 39., 41.), 'images/s', '>= 50')]
    assert common.table(rows).splitlines()[2:] == [
        '| R1 | a / b | fp32 | 1.023 | 1 to 1.1 | ratio | <= 1.03: met |',
        '| R3 | speed |  | 40 | 39 to 41 | images/s | >= 50: not met |']


@pytest.fixture
def speed(common, monkeypatch, tmp_path):
    """results/speed.csv of a checkout whose code is committed."""
    monkeypatch.setattr(common, 'SPEED', tmp_path / 'results' / 'speed.csv')
    monkeypatch.setattr(common, '_commit', lambda: '0123456789ab')
    monkeypatch.setattr(sys, 'argv', ['/somewhere/benchmarks/whole.py', '--record', '--authors', 'a b'])
    return common.SPEED


def test_a_record_replaces_the_row_with_its_key(common, speed, monkeypatch):
    def make(what, value, setting='fp32'):
        return common.row('R1', what, (value, value, value), goal='<= 1.1', repeats=3, setting=setting)

    common.record([make('a', 1.), make('b', 2.)])
    common.record([make('a', 3.), make('a', 4., 'bf16')])
    monkeypatch.setattr('mmat.reproduce.provenance.describe_hardware', lambda: 'another machine')
    common.record([make('b', 5.)])
    with open(speed, newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['what'], row['setting'], row['value']) for row in rows] == [
        ('a', 'fp32', '3.0'), ('b', 'fp32', '2.0'), ('a', 'bf16', '4.0'), ('b', 'fp32', '5.0')]
    assert tuple(rows[0]) == common.COLUMNS and all(rows[0].values())
    assert (rows[0]['commit'], rows[0]['command'], rows[3]['hardware']) == (
        '0123456789ab', "python benchmarks/whole.py --record --authors 'a b'", 'another machine')
    assert 'torch' in rows[0]['software']


def test_a_file_with_other_columns_is_not_overwritten(common, speed):
    speed.parent.mkdir()
    speed.write_text('a,b\n1,2\n')
    with pytest.raises(FileError, match=r"speed\.csv.*'figure'.*\['a', 'b'\]"):
        common.record([common.row('R1', 'a', (1., 1., 1.))])
    assert speed.read_text() == 'a,b\n1,2\n'


def test_only_committed_code_is_recorded(common, monkeypatch, tmp_path):
    def git(*arguments):
        subprocess.run(['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=a', *arguments], check=True,
                       capture_output=True)

    def describe(commit):
        monkeypatch.setattr('mmat.reproduce.provenance.describe_code', lambda: dict(commit=commit, versions={}))

    script = tmp_path / 'benchmarks' / 'a.py'
    script.parent.mkdir()
    script.write_text('')
    git('init')
    git('add', '.')
    git('commit', '-m', 'a')
    monkeypatch.setattr(common, 'ROOT', tmp_path)
    describe('0123456789ab')
    (tmp_path / 'benchmarks' / 'README.md').write_text('')
    assert common._commit() == '0123456789ab'
    script.write_text('pass')
    with pytest.raises(SystemExit, match='0123456789ab'):
        common._commit()
    git('commit', '-am', 'b')
    (tmp_path / 'benchmarks' / 'new.py').write_text('')
    with pytest.raises(SystemExit, match='0123456789ab'):
        common._commit()
    (tmp_path / 'benchmarks' / 'new.py').unlink()
    describe('0123456789ab+')
    with pytest.raises(SystemExit, match=r'0123456789ab(?!\+)'):
        common._commit()
    describe(None)
    with pytest.raises(SystemExit, match='--record.*git'):
        common._commit()


def test_a_failing_script_is_quoted(common, tmp_path):
    path = tmp_path / 'fails.py'
    path.write_text('import os, sys; sys.exit(os.environ["OMP_NUM_THREADS"] + sys.argv[1] + os.environ["EXTRA"])')
    with pytest.raises(RuntimeError, match='3no data'):
        common.in_process('no ', script=str(path), threads=3, EXTRA='data')
    path.write_text('print("said before"); print([1, 2])')
    assert common.in_process(script=str(path)) == [1, 2]


# The scripts

@pytest.fixture(scope='session')
def cifar(tmp_path_factory):
    """Twenty images in CIFAR-10's layout."""
    folder = tmp_path_factory.mktemp('data') / 'cifar-10-batches-py'
    folder.mkdir()
    generator = np.random.RandomState(0)
    for name in [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']:
        content = dict(data=generator.randint(0, 256, (4, 3072)).astype(np.uint8), labels=[0, 3, 5, 9])
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
    (folder / 'batches.meta').write_bytes(pickle.dumps(dict(label_names=names), protocol=2))
    return str(folder.parent)


@pytest.fixture
def run(script, monkeypatch):
    """Return a function that runs a script, with its child processes in this one, and returns the output."""
    monkeypatch.setattr('mmat.apis.launch.keep_freed_memory', lambda: False)
    monkeypatch.setattr('mmat.utils.cpu.keep_freed_memory', lambda: False)
    # Formatting configs is slow.
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **kwargs: (text, True))
    from_cfg = Runner.from_cfg

    def from_named(config):
        config.experiment_name = f'benchmark_{next(_runs)}'  # mmengine reuses one from the same second
        return from_cfg(config)

    monkeypatch.setattr(Runner, 'from_cfg', from_named)

    def call(name, *arguments):
        module = script(name)

        def here(*words, script=None, threads=None, **environment):
            if script == '-c':
                return time.time() + 1
            if script is not None:
                words = [str(word) for word in words]
                processes = [word for word in words if word.startswith('--nproc')]
                if processes:  # to torchrun
                    words = words[words.index(script_of_training) + 1:]
                    words[words.index('pytorch')] = 'none'
                return importlib.import_module('timed_training').run(int(words[0]), *words[1:])
            return json.loads(call(name, *words).splitlines()[-1])

        script_of_training = str(ROOT / 'benchmarks' / 'timed_training.py')
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
            patch.setattr(module, 'in_process', here, raising=False)
            patch.setattr(sys, 'argv', [f'{name}.py', *map(str, arguments)])
            module.main()
        return output.getvalue()

    return call


def cells(output):
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in output.splitlines() if line.startswith('| R')]


def test_whole_with_a_plain_loop(run, cifar):
    rows = cells(run('whole', '--repeats', 1, '--data', cifar, '--iterations', 3, '--skip', 1, '--batch', 2,
                     '--workers', 0))
    assert [row[1] for row in rows] == 4 * ['images/s of AT training'] + 3 * [
        'images/s of AT training / a plain eager loop, PIL-fed']
    assert all(float(row[3]) > 0 for row in rows)
    assert float(rows[4][3]) == pytest.approx(float(rows[1][3]) / float(rows[0][3]), rel=2e-3)


SCRIPT = """
    import argparse, os
    import torch
    import torchvision.transforms as T
    import torchnet as tnt
    from nested_dict import nested_dict
    from torchnet.engine import Engine
    from torchvision import datasets

    def resnet(depth, width, num_classes):
        weight = torch.full((num_classes, 3), float(depth * width))
        return None, {'.'.join(key): value for key, value in nested_dict({'fc': {'weight': weight}}).items_flat()}

    def main():
        parser = argparse.ArgumentParser()
        for name in ('depth', 'width', 'teacher_id', 'beta', 'dataroot', 'batch_size', 'nthread', 'save'):
            parser.add_argument(f'--{name}')
        opt = parser.parse_args()
        assert (opt.depth, opt.width, float(opt.beta)) == ('16', '1', 1000)
        teacher = torch.load(os.path.join('logs', opt.teacher_id, 'model.pt7'))['params']
        assert teacher['fc.weight'][0, 0] == 32
        data = datasets.CIFAR10(opt.dataroot, train=True, download=True, transform=T.ToTensor())
        loader = torch.utils.data.DataLoader(data, int(opt.batch_size), num_workers=int(opt.nthread))
        weight = torch.zeros(10, 3, requires_grad=True)
        loss, right = tnt.meter.AverageValueMeter(), tnt.meter.ClassErrorMeter(accuracy=True)

        def network(sample):
            images, labels, train = sample
            assert train
            output = images.mean((2, 3)) @ weight.t()
            return torch.nn.functional.cross_entropy(output, labels), output

        def on_start_epoch(state):
            loss.reset(), right.reset()
            state['iterator'] = loader

        def on_forward(state):
            loss.add(state['loss'].item())
            right.add(state['output'].data, state['sample'][1])
            if state['t'] == 0:
                # All outputs are equal; the labels are the file's, the first one is 0.
                assert abs(loss.mean - torch.tensor(10.).log()) < 1e-6 and right.value() == [50.]
                assert weight.grad is not None

        engine = Engine()
        engine.hooks.update(on_start_epoch=on_start_epoch, on_forward=on_forward,
                            on_sample=lambda state: state['sample'].append(state['train']))
        engine.train(network, loader, 1, torch.optim.SGD([weight], 0.1))
"""
TRAIN_STUDENT = """
    import argparse

    import tensorboard_logger
    import torch
    from models import model_dict
    from torchvision import datasets, transforms

    parser = argparse.ArgumentParser()
    for name in ('path_t', 'distill', 'model_s', 'a', 'b', 'learning_rate', 'batch_size', 'num_workers'):
        parser.add_argument(f'-{name}', f'--{name}')
    opt = parser.parse_args()
    tensorboard_logger.Logger(logdir='logs', flush_secs=2)
    assert (opt.distill, opt.model_s, float(opt.a), float(opt.b)) == ('attention', 'wrn_16_1', 0, 1000)
    assert opt.path_t.split('/')[-2].split('_')[:3] == ['wrn', '16', '2']
    model_dict['wrn_16_2'](num_classes=100).load_state_dict(torch.load(opt.path_t)['model'])
    data, tests = (datasets.CIFAR100('./data/', train=train, download=True, transform=transforms.ToTensor())
                   for train in (True, False))
    assert (len(data), data.targets, tests.targets) == (20, 5 * [0, 3, 5, 9], [0, 3, 5, 9])
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], float(opt.learning_rate))
    for images, labels in torch.utils.data.DataLoader(data, int(opt.batch_size), num_workers=int(opt.num_workers)):
        (images.mean((2, 3)) @ weight).sum().backward()
        optimizer.step()
"""
IMAGE_CLASSIFICATION = """
    import argparse

    import torch
    import torchdistill
    import yaml
    from torchvision import datasets, transforms

    def convert(loader, suffix, node):
        return loader.construct_mapping(node, deep=True)

    parser = argparse.ArgumentParser()
    parser.add_argument('--config')
    parser.add_argument('--device')
    opt = parser.parse_args()
    yaml.SafeLoader.add_multi_constructor('!import', convert)
    config = yaml.safe_load(open(opt.config))
    assert torchdistill.answer == 42 and opt.device == 'cpu'
    networks = [config['models'][f'{name}_model']['kwargs'] for name in ('teacher', 'student')]
    assert [(each['depth'], each['k'], each['dropout_p']) for each in networks] == [(16, 2, 0), (16, 1, 0)]
    transfer = config['train']['criterion']['kwargs']['sub_terms']['at_loss']
    pairs = transfer['criterion']['kwargs']['at_pairs'].values()
    assert [(pair['teacher'], pair['student']) for pair in pairs] == [
        2 * (dict(io='output', path=f'layer{number}'), ) for number in (1, 2, 3)] and transfer['weight'] == 1000
    loader = config['train']['train_data_loader']
    kwargs = config['datasets'][loader['dataset_id']]['init']['kwargs']
    steps = [step['key'].rpartition('.')[2] for step in kwargs.pop('transform')['init']['kwargs']['transforms']]
    assert steps == ['RandomCrop', 'RandomHorizontalFlip', 'ToTensor', 'Normalize']
    data = datasets.CIFAR10(**kwargs, transform=transforms.ToTensor())
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], **config['train']['optimizer']['kwargs'])
    for images, labels in torch.utils.data.DataLoader(data, **loader['kwargs']):
        (images.mean((2, 3)) @ weight).sum().backward()
        optimizer.step()
"""


@pytest.mark.parametrize('option, name, ended, files', [
    ('authors', "the authors' script", 'training', {'cifar.py': SCRIPT}),
    ('repdistiller', 'RepDistiller', 'py', {
        'train_student.py': TRAIN_STUDENT,
        'models/__init__.py': 'import torch; model_dict = dict(wrn_16_2=lambda num_classes: torch.nn.Linear(2, 3))'}),
    ('torchdistill', 'torchdistill', 'py', {
        'examples/torchvision/image_classification.py': IMAGE_CLASSIFICATION,
        'torchdistill/__init__.py': 'answer = 42'}),
])
def test_whole_with_scripts_of_other_projects(option, name, ended, files, run, cifar, tmp_path, monkeypatch):
    for file, content in files.items():
        (tmp_path / 'checkout' / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'checkout' / file).write_text(textwrap.dedent(content))
    monkeypatch.setattr(torchvision.datasets.cifar, 'check_integrity', None)  # put back afterwards
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    arguments = ('--data', cifar, '--skip', 1, '--batch', 2, '--workers', 0, f'--{option}', tmp_path / 'checkout',
                 '--one', name)
    with mock.patch.dict(sys.modules):
        assert float(run('whole', *arguments, '--iterations', 3)) > 0
    with mock.patch.dict(sys.modules), pytest.raises(RuntimeError, match=rf'{ended}\b.*\b10 of 11\b'):
        monkeypatch.chdir(tmp_path)
        run('whole', *arguments, '--iterations', 11)


MMRAZOR = """
    from mmengine.model import BaseModel
    from mmengine.registry import MODELS as ROOT, Registry

    MODELS = Registry('model', parent=ROOT, scope='mmrazor')

    @MODELS.register_module()
    class SingleTeacherDistill(BaseModel):
        def __init__(self, architecture, teacher, distiller, data_preprocessor):
            super().__init__(data_preprocessor)
            self.student, teacher = MODELS.build(architecture), MODELS.build(teacher)
            assert (self.student.head.fc.in_features, teacher.head.fc.in_features) == (64, 128)
            assert distiller.type == 'ConfigurableDistiller' and {
                name: loss.loss_weight for name, loss in distiller.distill_losses.items()} == dict(
                loss_group0=1000, loss_group1=1000, loss_group2=1000)
            recorders = distiller.student_recorders, distiller.teacher_recorders
            for network, recorded in zip((self.student, teacher), recorders):
                for mapping in distiller.loss_forward_mappings.values():
                    network.get_submodule(recorded[mapping.s_feature.recorder].source)
                    assert mapping.s_feature.recorder == mapping.t_feature.recorder

        def forward(self, inputs, data_samples, mode):
            assert inputs.shape == (2, 3, 32, 32) and inputs.abs().max() < 3
            return self.student(inputs, data_samples, mode)
"""
TRAIN = """
    import sys
    import mmrazor
    from mmengine.config import Config
    from mmengine.runner import Runner
    config = Config.fromfile(sys.argv[1])
    config.work_dir = sys.argv[3]
    Runner.from_cfg(config).train()
"""


def test_whole_with_mmrazor(run, cifar, tmp_path, monkeypatch):
    for name, content in {'mmrazor/__init__.py': MMRAZOR, 'mmrazor/models/losses/at_loss.py': '',
                          'tools/train.py': TRAIN}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(content))
    monkeypatch.setattr(CIFAR10, '_check_integrity', None)  # put back afterwards
    monkeypatch.setattr(sys, 'path', [*sys.path])
    try:
        with mock.patch.dict(sys.modules):
            output = run('whole', '--data', cifar, '--skip', 1, '--batch', 2, '--workers', 0, '--mmrazor', tmp_path,
                         '--one', 'MMRazor', '--iterations', 3)
        assert float(output.splitlines()[-1]) > 0
    finally:
        MODELS.children.pop('mmrazor', None)


def test_a_folder_that_is_not_a_checkout_is_refused(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run('whole', '--repdistiller', tmp_path)
    error = capsys.readouterr().err
    for part in (str(tmp_path), 'HobbitLong/RepDistiller', 'train_student.py'):
        assert part in error


def test_speed_excludes_the_first_iterations(script):
    timed = dict(ends=[100., 101., 103., 107.], images=8)
    assert script('timed_training').images_per_second(timed, 1) == 24 / 7
    assert script('timed_training').images_per_second(timed, 2) == 16 / 6


def test_deviation_from_a_line(script):
    assert script('scale').ratios_to_line([1, 2, 4, 8], [5, 7, 11, 19]) == pytest.approx([1, 1, 1, 1])
    a = (1 / 1 + 1 / 2) / (1 / 1**2 + 1 / 2**2)
    assert script('scale').ratios_to_line([1, 1, 3], [1, 2, 4]) == pytest.approx([1 / a, 2 / a, 1])


def test_scale(run, cifar, script, monkeypatch):
    # Each step increases the memory of a new process.
    grows = itertools.count(0, 2048)
    monkeypatch.setattr(script('scale').resource, 'getrusage', lambda _: SimpleNamespace(ru_maxrss=next(grows)))
    # Simultaneous trainings run one after the other here.
    one_by_one = contextlib.nullcontext(SimpleNamespace(map=map))
    monkeypatch.setattr(script('scale'), 'ThreadPoolExecutor', lambda count: one_by_one)
    rows = cells(run('scale', '--only', 'processes', '--repeats', 1, '--data', cifar, '--iterations', 3, '--skip', 1))
    assert len(rows) == 6 and all(float(row[3]) > 0 for row in rows)
    rows = cells(run('scale', '--only', 'depth', '--repeats', 1, '--steps', 1, '--depths', 10, 16, 22, '--batch', 2))
    assert [row[1].split(',')[0] for row in rows] == 3 * ['step'] + ['step / straight line in depth'] + 3 * [
        'peak memory'] + ['peak memory / straight line in depth']
    assert [float(row[3]) for row in rows[4:]] == [2, 2, 2, 1]


def test_startup(run, cifar, monkeypatch):
    monkeypatch.setattr(CIFAR10, '_check_integrity', None)  # put back afterwards
    rows = cells(run('startup', '--repeats', 1, '--data', cifar, '--batch', 2))
    assert len(rows) == 15 and all(float(row[3]) > 0 for row in rows[9:])


def test_decode(run):
    output = run('decode', '--repeats', 1, '--count', 2)
    assert output.count('| decode |') == 10 and 'torchvision against Pillow: mean difference' in output
