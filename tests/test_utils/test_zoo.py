import hashlib
import io
import os
from email.message import Message
from pathlib import Path

import pytest
import torch

from mmat.errors import CheckpointError, FileError, MissingFileError
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
    ('wrn40-1.py', "'wrn40-1_"),
    ('qqqq', 'list_models'),
    # mmpretrain's.
    ('vit-base-p16_32xb128-mae_in1', 'vit-base-p16_32xb128-mae_in1k'),
])
def test_a_misspelt_config_names_the_closest(name, close):
    with pytest.raises(MissingFileError) as error:
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
    with pytest.raises(MissingFileError, match='model-index.yml') as error:
        zoo.zoo_root()
    assert str(tmp_path) in str(error.value)


def tree(folder, zoo_folder):
    """A package, and two models in its zoo, or in the checkout that it is in."""
    root = folder / zoo_folder
    source = package(folder, zoo_folder)
    (root / 'model-index.yml').write_text('Import: [configs/a/metafile.yml]')
    (root / 'configs' / 'a').mkdir(parents=True)
    for name in ('first', 'second'):
        (root / 'configs' / 'a' / f'{name}.py').touch()
    (root / 'configs' / 'a' / 'metafile.yml').write_text(
        'Models: [{Name: first, Config: configs/a/first.py, Weights: checkpoints/first.pth},'
        ' {Name: second, Config: configs/a/second.py, Weights: "https://a.invalid/second.pth"}]')
    return source, root


# A wheel; a clone, on the path or installed with `pip install -e` (PEP 660, where `.mim` is not made).
@pytest.mark.parametrize('zoo_folder', ['mmat/.mim', '.'])
def test_names_configs_and_weights(zoo_folder, tmp_path, monkeypatch, empty_cache):
    source, root = tree(tmp_path / 'somewhere', zoo_folder)
    monkeypatch.setattr(zoo, '__file__', source)
    zoo.zoo_index.cache_clear()
    monkeypatch.chdir(tmp_path)
    assert zoo.list_models() == ['first', 'second']
    for name in ('first', 'configs/a/first.py'):
        assert os.path.samefile(zoo.find_config(name), root / 'configs/a/first.py')
        assert zoo.find_weights(name) == str((root / 'checkpoints/first.pth').resolve())
    assert zoo.find_weights('second') == 'https://a.invalid/second.pth'
    (tmp_path / 'first.py').touch()
    assert zoo.find_weights('first.py') is None  # another file of that name


def test_mmpretrains_names_come_after_ours():
    config = zoo.find_config('vit-base-p16_32xb128-mae_in1k')
    assert config.endswith('mmpretrain/.mim/configs/vision_transformer/vit-base-p16_32xb128-mae_in1k.py')
    assert zoo.find_weights('vit-base-p16_32xb128-mae_in1k').startswith('https://download.openmmlab.com/')
    assert zoo.find_weights('wrn40-1_1xb128_cifar10') is None and zoo.find_weights('qqqq') is None


def test_ours_needs_nothing_of_mmpretrain(monkeypatch):
    monkeypatch.setattr('mmpretrain.list_models', lambda: pytest.fail('asked'))
    assert zoo.find_config(NAMES[0])
    assert zoo.find_weights(NAMES[0]) == zoo.zoo_index()[NAMES[0]].get('Weights')
    with pytest.raises(MissingFileError, match='nowhere.py'):
        zoo.find_config('nowhere.py')


def test_mmpretrain_without_its_configs_says_so(monkeypatch):
    from mmpretrain.apis.model import ModelHub

    def locate(name):
        return type('Distribution', (), dict(locate_file=lambda self, path: Path('/nowhere')))()

    monkeypatch.setattr(ModelHub, '_ModelHub__mmpretrain_registered', False)
    monkeypatch.setattr('importlib_metadata.distribution', locate)
    for find in (zoo.find_config, zoo.find_weights):
        with pytest.raises(MissingFileError, match='pip install mmpretrain'):
            find('vit-base-p16_32xb128-mae_in1k')
    with pytest.raises(MissingFileError, match="'wrn16-1_1xb128_cifar10'.*pip install mmpretrain"):
        zoo.find_config('wrn16-1_1xb128_cifar')


# Weights

def weights(folder, name='a_20210208-{}.pth', content=b'weights'):
    """A file with the right hash in its name."""
    path = folder / name.format(hashlib.sha256(b'weights').hexdigest()[:8])
    path.write_bytes(content)
    return path


def test_a_file_with_the_right_hash_in_its_name(tmp_path):
    path = weights(tmp_path)
    assert zoo.fetch_weights(path) == zoo.fetch_weights(str(path)) == str(path)


def test_a_file_with_another_hash_in_its_name(tmp_path):
    path = weights(tmp_path, content=b'weight')
    with pytest.raises(CheckpointError, match=path.stem[-8:] + r'\.') as error:
        zoo.fetch_weights(path)
    assert repr(str(path)) in str(error.value)


@pytest.mark.parametrize('name', [
    'epoch_3.pth', 'wrn16-20210208.pth', 'wrn16-25122023.pth', 'wrn16-00050000.pth', 'a-0123abc.pth',
    'a-0123abcde.pth', 'a-0123abcx.pth', 'a_0123abcd.pth', 'a-0123abcd.pt', 'a-0123abcd.pth.tar'])
def test_names_that_promise_nothing(name, tmp_path):
    assert zoo.fetch_weights(weights(tmp_path, name)) == str(tmp_path / name)


@pytest.fixture
def internet(tmp_path, monkeypatch):
    """A dict of URL -> content for torch.hub to download, and the list of requested URLs."""
    pages, asked = {}, []

    def urlopen(request, **kwargs):
        url = request.full_url
        asked.append(url)
        if url not in pages:
            raise OSError('no such page')
        response = io.BytesIO(pages[url])
        response.info = lambda: Message()
        return response

    monkeypatch.setattr('torch.hub.urlopen', urlopen)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    return pages, asked


def test_a_download_is_kept_and_checked_each_time(internet, tmp_path):
    pages, asked = internet
    url = f'https://a.invalid/b/{weights(tmp_path).name}'
    pages[url] = b'weights'
    path = zoo.fetch_weights(url)
    assert Path(path).read_bytes() == b'weights' and Path(path).parent == Path(torch.hub.get_dir()) / 'checkpoints'
    assert zoo.fetch_weights(url) == path and asked == [url]
    Path(path).write_bytes(b'weight')
    with pytest.raises(CheckpointError, match=url) as error:
        zoo.fetch_weights(url)
    assert repr(path) in str(error.value)


def test_a_download_of_something_else_leaves_no_file(internet, tmp_path):
    pages, _ = internet
    url = f'https://a.invalid/b/{weights(tmp_path).name}'
    pages[url] = b'weight'
    for message in (f'{url}.*hash', f'{url}.*no such page'):
        with pytest.raises(FileError, match=message):
            zoo.fetch_weights(url)
        assert not any((tmp_path / 'home').rglob('*.pth'))
        pages.clear()


def test_files_of_one_name_at_two_places_are_two(internet):
    pages, _ = internet
    urls = [f'https://a.invalid/{folder}/epoch_200.pth' for folder in 'xy']
    for url in urls:
        pages[url] = url.encode()
    assert [Path(zoo.fetch_weights(url)).read_bytes().decode() for url in urls] == urls
