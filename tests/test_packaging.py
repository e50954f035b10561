"""Tests of the wheel and the source distribution, and of the wheel in an environment with its requirements only."""
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch

from mmat.models import build_network
from mmat.reproduce.metafile import set_training
from mmat.tooling.publish import publish_checkpoint
from mmat.version import __version__

ROOT = Path(__file__).parents[1]
ZOO = ('configs', 'tools', 'recipes', 'checkpoints')
WITH_WEIGHTS = 'wrn16-1_1xb10_digits'


def files_under(root, *folders):
    """Return the files in some folders of a root, relative to the root, without compiled files."""
    return {str(path.relative_to(root)) for folder in folders for path in (root / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the checkout to build in, because a build writes into its source."""
    target = tmp_path_factory.mktemp('source') / 'mmat'
    target.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, target)
        elif path.name in ('mmat', 'docs', 'tests', 'projects', 'benchmarks', 'results', *ZOO):
            shutil.copytree(path, target / path.name, ignore=shutil.ignore_patterns('__pycache__', '_build', '.mim'))
    # Weights of one config, whether or not the zoo has some.
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_network(WITH_WEIGHTS).state_dict()), target / 'epoch_1.pth')
    weights = publish_checkpoint(target / 'epoch_1.pth', target / 'checkpoints' / 'of_a_test', half=True)
    (target / 'epoch_1.pth').unlink()
    metafile = target / 'configs' / 'wide_resnet' / 'metafile.yml'
    metafile.write_text(set_training(metafile.read_text(), WITH_WEIGHTS, dict(Weights=f'checkpoints/{weights.name}')))
    return target


@pytest.fixture(scope='module')
def built(source, tmp_path_factory):
    """The source distribution, the wheel built from it, and the wheel built from the checkout."""

    def build(folder, *options):
        target = tmp_path_factory.mktemp(folder)
        done = subprocess.run(
            [sys.executable, '-m', 'build', '--no-isolation', *options, '--outdir', str(target), str(source)],
            capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return {path.suffix: path for path in target.iterdir()}

    # Without options, the wheel is built from the source distribution.
    both = build('both')
    return both['.gz'], both['.whl'], build('wheel', '--wheel')['.whl']


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_the_package_and_the_zoo_only(built, source):
    wheel = built[2]
    expected = files_under(source, 'mmat') | {f'mmat/.mim/{path}' for path in files_under(source, *ZOO)}
    expected.add('mmat/.mim/model-index.yml')
    found = {name for name in contents(wheel) if '.dist-info/' not in name}
    assert found == expected
    assert {'mmat/.mim/tools/train.py', 'mmat/.mim/tools/test.py', 'mmat/.mim/configs/at/metafile.yml',
            'mmat/py.typed'} < found
    information = {name.split('.dist-info/')[1] for name in contents(wheel) if '.dist-info/' in name}
    assert any(name.endswith('LICENSE') for name in information)


def metadata(wheel):
    from packaging.metadata import parse_email

    content, = (content for name, content in contents(wheel).items() if name.endswith('.dist-info/METADATA'))
    return parse_email(content)[0]


def test_metadata(built):
    found = metadata(built[2])
    assert (found['name'], found['version']) == ('mmat', __version__)
    assert (found['requires_python'], found['license']) == ('>=3.10', 'Apache-2.0')
    assert found['description'] == (ROOT / 'README.md').read_text()


def test_extras_all_and_test_hold_the_others(built):
    from packaging.requirements import Requirement

    found = metadata(built[2])
    extras = {extra: [each for each in map(Requirement, found['requires_dist'])
                      if each.marker and each.marker.evaluate(dict(extra=extra))] for extra in found['provides_extra']}
    of_all, = extras['all']
    assert of_all.name == 'mmat' and of_all.extras == extras.keys() - {'all', 'test'}
    assert [each.extras for each in extras['test'] if each.name == 'mmat'] == [{'all'}]


def test_sdist_builds_the_same_wheel_as_the_checkout(built):
    from_sdist, from_checkout = (contents(wheel) for wheel in built[1:])
    assert from_sdist.keys() == from_checkout.keys()
    assert [name for name in from_sdist if from_sdist[name] != from_checkout[name]
            and not name.endswith('.dist-info/RECORD')] == []


def test_sdist_holds_the_repository(built, source):
    with tarfile.open(built[0]) as archive:
        found = {name.split('/', 1)[1] for name in archive.getnames() if '/' in name}
    assert files_under(source, 'docs', 'tests', 'projects', 'benchmarks', 'results', 'mmat', *ZOO) <= found
    assert {'README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE', 'CITATION.cff', 'model-index.yml', 'setup.py',
            'pyproject.toml'} <= found


def test_config_file_names_are_unique():
    """mim finds a config by its file name alone."""
    names = [path.name for path in ROOT.glob('configs/[!_]*/*.py')]
    assert sorted(names) == sorted(set(names))


def test_files_of_an_earlier_build_are_not_packed(source, tmp_path):
    stale = source / 'build' / 'lib' / 'mmat' / '.mim' / 'configs' / 'gone' / 'gone.py'
    stale.parent.mkdir(parents=True)
    stale.touch()
    try:
        subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-q',
                        '-w', str(tmp_path), str(source)], check=True, capture_output=True)
    finally:
        shutil.rmtree(source / 'build')
    wheel, = tmp_path.glob('*.whl')
    assert not [name for name in contents(wheel) if 'gone' in name]


# In a separate environment

def requirements(wheel, *extras):
    """Return every distribution that pip would install with a wheel, as installed here."""
    from packaging.requirements import Requirement

    waiting = [(Requirement(each), extras) for each in metadata(wheel)['requires_dist']]
    waiting.append((Requirement('mmcv-lite'), ()))  # or mmcv, see pyproject.toml
    found = {}
    while waiting:
        requirement, of_extras = waiting.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate(dict(extra=extra)) for extra in ('', *of_extras)):
            continue
        key = (requirement.name.lower(), *sorted(requirement.extras))
        if key in found:
            continue
        try:
            found[key] = distribution(requirement.name)
        except PackageNotFoundError:
            if requirement.name != 'mmcv-lite':
                raise
            found[key] = distribution('mmcv')
        waiting += [(Requirement(each), requirement.extras) for each in found[key].requires or ()]
    return list(found.values())


@pytest.fixture(scope='module')
def install(built, tmp_path_factory):
    """Return a function that makes an environment with the wheel, and links to the installed requirements."""

    def make(*extras):
        place = tmp_path_factory.mktemp('environment')
        venv.create(place, with_pip=False, symlinks=True)
        packages, = place.glob('lib/python*/site-packages')
        for each in requirements(built[1], *extras):
            for name in {path.parts[0] for path in each.files or () if path.parts[0] not in ('..', '__pycache__')}:
                if not (packages / name).exists():
                    (packages / name).symlink_to(Path(each.locate_file(name)).resolve())
        subprocess.run([sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--ignore-installed', '-q',
                        '--prefix', str(place), str(built[1])], check=True, capture_output=True)
        return place / 'bin' / 'python', packages

    return make


def run(python, folder, *words):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(('PYTHON', 'COV_'))}
    done = subprocess.run([str(python), *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_wheel_declares_all_its_requirements(install, tmp_path, source):
    """Every module imports with the plain requirements, and the zoo is read from the wheel."""
    python, packages = install()
    output = run(python, tmp_path, '-c', f"""
import importlib, importlib.util, json, pkgutil, sys
import mmat
for module in pkgutil.walk_packages(mmat.__path__, 'mmat.'):
    importlib.import_module(module.name)
from mmat.utils.zoo import find_weights, zoo_root
model = mmat.get_model('wrn16-1_at-wrn16-2_1xb128_cifar10')
trained = mmat.get_model('{WITH_WEIGHTS}', pretrained=True)
print(json.dumps(dict(
    file=mmat.__file__, root=str(zoo_root()), models=mmat.list_models(), weights=find_weights('{WITH_WEIGHTS}'),
    parameters=sum(each.numel() for each in model.parameters()), first=trained.backbone.conv0.weight[0].tolist(),
    extras=[name for name in ('sklearn', 'h5py', 'timm', 'sphinx') if importlib.util.find_spec(name)])))
""")
    found = json.loads(output.splitlines()[-1])
    assert Path(found['file']) == packages / 'mmat' / '__init__.py'
    assert Path(found['root']) == packages / 'mmat' / '.mim'
    assert (packages / 'mmat' / '.mim' / 'tools' / 'train.py').is_file()
    assert found['parameters'] == 175066 and found['extras'] == []
    weights, = source.glob('checkpoints/of_a_test_*.pth')
    assert Path(found['weights']) == packages / 'mmat' / '.mim' / 'checkpoints' / weights.name
    first = torch.load(weights)['state_dict']['backbone.conv0.weight'][0]
    assert torch.equal(torch.tensor(found['first']), first.float())
    import mmat
    assert found['models'] == mmat.list_models()


def test_tools_of_the_wheel_train(install, tmp_path):
    python, packages = install('digits')
    tools = packages / 'mmat' / '.mim' / 'tools'
    short = ['--cfg-options', 'train_cfg.max_epochs=1', 'val_dataloader.dataset.indices=20',
             'test_dataloader.dataset.indices=20']
    run(python, tmp_path, str(tools / 'train.py'), 'wrn16-1_1xb10_digits', '--seed', '0', *short)
    assert (tmp_path / 'work_dirs' / 'wrn16-1_1xb10_digits' / 'epoch_1.pth').is_file()
    assert os.access(tools / 'dist_train.sh', os.X_OK)
