import os
import platform
import re
import subprocess
from pathlib import Path

import mmengine
import mmpretrain
import numpy
import pytest
import torch
import torchvision

import mmat
from mmat.reproduce import provenance
from mmat.reproduce.provenance import describe_code, describe_hardware, describe_precision


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Make a repository with one commit; return its folder and the commit's hash."""
    def git(*words):
        return subprocess.run(['git', '-C', str(tmp_path), '-c', 'user.name=n', '-c', 'user.email=e', *words],
                              check=True, capture_output=True, text=True).stdout.strip()
    git('init', '-q')
    for name in ('mmat/a.py', 'README.md'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('one')
    git('add', '.')
    git('commit', '-q', '-m', 'm')
    monkeypatch.setattr(provenance, 'zoo_root', lambda: tmp_path)
    return tmp_path, git('rev-parse', 'HEAD')


def test_the_commit_and_whether_it_was_changed(checkout):
    folder, commit = checkout
    assert describe_code()['commit'] == commit[:12]
    (folder / 'README.md').write_text('two')  # not code
    (folder / 'mmat' / 'new.py').write_text('two')
    assert describe_code()['commit'] == commit[:12]
    (folder / 'mmat' / 'a.py').write_text('two')
    assert describe_code()['commit'] == f'{commit[:12]}+'


def test_no_commit_outside_a_checkout(checkout, tmp_path_factory, monkeypatch):
    folder, _ = checkout
    monkeypatch.setattr(provenance, 'zoo_root', lambda: folder / 'mmat')  # installed inside another repository
    assert describe_code()['commit'] is None
    outside = tmp_path_factory.mktemp('outside')
    monkeypatch.setattr(provenance, 'zoo_root', lambda: outside)
    assert describe_code()['commit'] is None
    monkeypatch.setattr(provenance, 'zoo_root', lambda: folder)
    monkeypatch.setenv('PATH', str(outside))  # no git
    assert describe_code()['commit'] is None


def test_versions():
    modules = (mmat, torch, torchvision, mmengine, mmpretrain, numpy)
    # Either version may have a local suffix such as +cpu.
    expected = {module.__name__: module.__version__.split('+')[0] for module in modules}
    assert {name: version.split('+')[0] for name, version in describe_code()['versions'].items()} == {
        **expected, 'python': platform.python_version()}


def test_the_available_cores(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    count = int(subprocess.run(['nproc'], env={'PATH': os.environ['PATH']}, capture_output=True, check=True).stdout)
    found = re.fullmatch(r'(\d+) cores? of (.+)', describe_hardware())
    assert int(found[1]) == count
    assert Path('/proc/cpuinfo').read_text().count(found[2]) >= count
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {4})
    assert describe_hardware().startswith('1 core of ')
    monkeypatch.setattr(provenance, '_processor', lambda: 'X')
    assert describe_hardware() == '1 core of X'


def test_the_gpus_of_a_training(monkeypatch):
    monkeypatch.setattr('shutil.which', lambda name: '/bin/nvidia-smi')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'NVIDIA Z')
    assert describe_hardware() == '1 x NVIDIA Z' and describe_hardware(4) == '4 x NVIDIA Z'


@pytest.mark.parametrize('wrapper, precision', [
    ("dict(type='OptimWrapper')", 'fp32'),
    ('dict(optimizer=1)', 'fp32'),
    ("dict(type='AmpOptimWrapper')", 'mixed precision'),
    ("dict(type='mmat.AutocastOptimWrapper')", 'bf16 autocast'),
])
def test_the_precision_of_the_last_attempt(tmp_path, wrapper, precision):
    assert describe_precision(tmp_path) == 'fp32'
    for name, text in (('20260102', wrapper), ('20260101', "dict(type='Other')")):
        (tmp_path / name / 'vis_data').mkdir(parents=True)
        (tmp_path / name / 'vis_data' / 'config.py').write_text(f'optim_wrapper = {text}')
    assert describe_precision(tmp_path) == precision
