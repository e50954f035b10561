import os
from pathlib import Path

import pytest

from mmat.utils import zoo

ROOT = Path(__file__).parents[2]
NAMES = [
    'wrn16-1_1xb128_cifar10', 'wrn16-1_at-wrn16-2_1xb128_cifar10', 'wrn16-1_at-wrn40-1_1xb128_cifar10',
    'wrn16-2_1xb128_cifar10', 'wrn16-2_at-wrn40-2_1xb128_cifar10', 'wrn40-1_1xb128_cifar10', 'wrn40-2_1xb128_cifar10'
]


@pytest.fixture
def empty_cache():
    zoo.zoo_root.cache_clear()
    yield
    zoo.zoo_root.cache_clear()
    zoo.zoo_index.cache_clear()


def test_the_names_of_the_contract_are_there():
    assert set(NAMES) <= set(zoo.list_models('*_cifar10'))
    # The quick start's: a teacher, a student, and both.
    assert len(zoo.list_models('*_digits')) >= 3 and zoo.list_models('*_at-*_digits')
    assert zoo.list_models() == sorted(zoo.list_models())


@pytest.mark.parametrize('pattern, names', [
    ('wrn*_at-wrn*_cifar10', [NAMES[1], NAMES[2], NAMES[4]]),
    ('wrn40-?_1xb128_cifar10', NAMES[5:]),
    ('wrn16-1_1xb128_cifar10', NAMES[:1]),
    ('nothing*', []),
])
def test_patterns(pattern, names):
    assert zoo.list_models(pattern) == names


@pytest.mark.parametrize('name', [
    'wrn16-1_1xb128_cifar10',
    'configs/wide_resnet/wrn16-1_1xb128_cifar10.py',
    str(ROOT / 'configs/wide_resnet/wrn16-1_1xb128_cifar10.py'),
])
def test_a_config_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert os.path.samefile(zoo.find_config(name), ROOT / 'configs/wide_resnet/wrn16-1_1xb128_cifar10.py')


def test_the_folder_one_is_in_goes_before_the_zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / 'configs' / 'wide_resnet' / 'wrn16-1_1xb128_cifar10.py'
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert os.path.samefile(zoo.find_config('configs/wide_resnet/wrn16-1_1xb128_cifar10.py'), mine)


@pytest.mark.parametrize('name, close', [
    ('wrn16-1_1xb128_cifar', 'wrn16-1_1xb128_cifar10'),
    ('configs/at/wrn16-1_at-wrn16-2_1xb128_cifr10.py', 'wrn16-1_at-wrn16-2_1xb128_cifar10'),
    ('wrn40-1.py', 'wrn40-1_1xb128_cifar10'),
    ('qqqq', 'list_models'),
])
def test_a_misspelt_config_names_the_closest(name, close):
    with pytest.raises(FileNotFoundError) as error:
        zoo.find_config(name)
    assert repr(name) in str(error.value) and close in str(error.value)
    assert '\n' not in str(error.value)


def package(folder, *indices):
    """An installed package with its index in some of its places."""
    module = folder / 'mmat' / 'utils' / 'zoo.py'
    module.parent.mkdir(parents=True)
    for index in indices:
        (folder / index).mkdir(parents=True, exist_ok=True)
        (folder / index / 'model-index.yml').touch()
    return str(module)


@pytest.mark.parametrize('indices, found', [(['mmat/.mim'], 'mmat/.mim'), (['.'], '.'),
                                            (['.', 'mmat/.mim'], 'mmat/.mim')])
def test_the_zoo_of_an_installed_package_goes_before_a_checkout(indices, found, tmp_path, monkeypatch, empty_cache):
    monkeypatch.setattr(zoo, '__file__', package(tmp_path, *indices))
    assert zoo.zoo_root() == (tmp_path / found).resolve()


def test_a_package_without_its_configs_says_so(tmp_path, monkeypatch, empty_cache):
    monkeypatch.setattr(zoo, '__file__', package(tmp_path))
    with pytest.raises(FileNotFoundError, match='installed without its configs'):
        zoo.zoo_root()
