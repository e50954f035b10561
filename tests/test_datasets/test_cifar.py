import hashlib
import io
import os
import pickle
import shutil
import struct
import tarfile
import urllib.request
import warnings

import numpy as np
import pytest
import torch

from mmat.datasets import CIFAR10, CIFAR100
from mmat.errors import ConfigError, DataError, FileError, MissingFileError
from mmat.registry import DATASETS

CLASSES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
FOLDER, ARCHIVE = 'cifar-10-batches-py', 'cifar-10-python.tar.gz'
FILES = ['data_batch_1', 'data_batch_2', 'data_batch_3', 'data_batch_4', 'data_batch_5', 'test_batch', 'batches.meta']


class Python2Pickler(pickle._Pickler):
    """Pickle str and bytes as Python 2's str, as in the official files."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, obj):
        data = obj.encode('latin1') if isinstance(obj, str) else obj
        short = len(data) < 256
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) if short else pickle.BINSTRING +
                   struct.pack('<i', len(data)))
        self.write(data)
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(obj):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(obj)
    # The official files hold NumPy 1's module name. Write it with any NumPy.
    return buffer.getvalue().replace(b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n')


def pixels(count, seed):
    return np.random.RandomState(seed).randint(0, 256, (count, 3072)).astype(np.uint8)


def contents():
    """Three images a file, as dictionaries with the official keys."""
    files = {}
    for k, name in enumerate(FILES[:6]):
        labels = [k, 9 - k, 4]
        files[name] = dict(batch_label=f'batch {k}', labels=labels, data=pixels(3, k),
                           filenames=[f'{CLASSES[label]}_s_{i:06d}.png' for i, label in enumerate(labels)])
    files['batches.meta'] = dict(num_cases_per_batch=3, label_names=CLASSES, num_vis=3072)
    return files


def write_folder(root, files=None, folder=FOLDER):
    (root / folder).mkdir(parents=True)
    for name, content in (files or contents()).items():
        (root / folder / name).write_bytes(content if isinstance(content, bytes) else python2_pickle(content))
    # The official folder also holds a web page.
    (root / folder / 'readme.html').write_text('<meta HTTP-EQUIV="REFRESH">')
    return root


def write_archive(root, files=None, folder=FOLDER, archive=ARCHIVE):
    write_folder(root, files, folder)
    with tarfile.open(root / archive, 'w:gz') as tar:
        tar.add(root / folder, folder)
    shutil.rmtree(root / folder)
    return root


WRITERS = [write_folder, write_archive]
layouts = pytest.mark.parametrize('write', WRITERS, ids=['folder', 'archive'])


def replaced(name, **fields):
    files = contents()
    files[name].update(fields)
    return files


def lacking(name, key):
    files = contents()
    del files[name][key]
    return files


def refused(root, split='train', error=DataError):
    with pytest.raises(error) as caught:
        CIFAR10(str(root), split)
    return str(caught.value)


# Reading

@layouts
def test_training_files_are_joined_in_order(tmp_path, write):
    data = CIFAR10(str(write(tmp_path)), 'train')
    expected = np.concatenate([pixels(3, k) for k in range(5)]).reshape(15, 3, 32, 32)
    assert data.images.dtype == torch.uint8
    np.testing.assert_array_equal(data.images.numpy(), expected)
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [0, 9, 4, 1, 8, 4, 2, 7, 4, 3, 6, 4, 4, 5, 4]
    assert data.metainfo['classes'] == tuple(CLASSES)


@layouts
def test_test_split(tmp_path, write):
    data = CIFAR10(str(write(tmp_path)), 'test')
    np.testing.assert_array_equal(data.images.numpy().reshape(3, 3072), pixels(3, 5))
    assert data.labels.tolist() == [5, 4, 4]


def test_pixels_are_by_channel_then_row(tmp_path):
    # From the official page: 1024 red values, then green, then blue, each in row order.
    data = np.zeros((3, 3072), dtype=np.uint8)
    data[0, 0], data[0, 1], data[0, 32], data[0, 1024], data[0, 3071] = 1, 2, 3, 4, 5
    image = CIFAR10(str(write_folder(tmp_path, replaced('test_batch', data=data))), 'test').images[0]
    assert image.sum() == 15
    assert [image[0, 0, 0], image[0, 0, 1], image[0, 1, 0], image[1, 0, 0], image[2, 31, 31]] == [1, 2, 3, 4, 5]


@layouts
def test_cifar100_has_its_fine_classes(tmp_path, write):
    classes = [f'class{i}' for i in range(100)]
    files = {
        name: dict(filenames=['a', 'b'], batch_label=name, fine_labels=labels, coarse_labels=[0, 9], data=pixels(2, 9))
        for name, labels in (('train', [99, 0]), ('test', [7, 50]))
    }
    files['meta'] = dict(fine_label_names=classes, coarse_label_names=[f'super{i}' for i in range(20)])
    names = dict(archive='cifar-100-python.tar.gz') if write is write_archive else {}
    write(tmp_path, files, folder='cifar-100-python', **names)
    train, test = (CIFAR100(str(tmp_path), split) for split in ('train', 'test'))
    assert train.labels.tolist() == [99, 0] and test.labels.tolist() == [7, 50]
    assert train.metainfo['classes'] == tuple(classes)
    np.testing.assert_array_equal(train.images.numpy().reshape(2, 3072), pixels(2, 9))


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_files_pickled_by_python_3(tmp_path, protocol):
    write_folder(tmp_path)
    for name, content in contents().items():
        (tmp_path / FOLDER / name).write_bytes(pickle.dumps(content, protocol=protocol))
    assert CIFAR10(str(tmp_path), 'test').labels.tolist() == [5, 4, 4]


@pytest.mark.parametrize('labels', [[5, 4, 4], list(np.array([5, 4, 4]))], ids=['int', 'numpy'])
def test_reading_gives_no_warning(tmp_path, labels):
    # NumPy 2 warns about the old module names in the files.
    write_folder(tmp_path, replaced('test_batch', labels=labels))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert CIFAR10(str(tmp_path), 'test').labels.tolist() == [5, 4, 4]


def test_files_of_unequal_length(tmp_path):
    files = replaced('data_batch_2', data=pixels(1, 1), labels=[6])
    data = CIFAR10(str(write_folder(tmp_path, files)), 'train')
    assert data.labels.tolist() == [0, 9, 4, 6, 2, 7, 4, 3, 6, 4, 4, 5, 4]
    assert len(data.images) == 13


def test_a_file_without_images(tmp_path):
    files = replaced('data_batch_2', data=pixels(0, 1), labels=[])
    data = CIFAR10(str(write_folder(tmp_path, files)), 'train')
    assert data.labels.dtype == torch.int64 and len(data) == 12


def test_only_the_files_of_the_split_are_needed(tmp_path):
    files = {name: contents()[name] for name in ('test_batch', 'batches.meta')}
    assert len(CIFAR10(str(write_folder(tmp_path, files)), 'test')) == 3


def test_indices(tmp_path):
    data = CIFAR10(str(write_folder(tmp_path)), 'train', indices=[14, 1])
    assert data.labels.tolist() == [4, 9]
    np.testing.assert_array_equal(data.images[1].numpy().reshape(3072), pixels(3, 0)[1])


def test_builds_from_a_config(tmp_path):
    data = DATASETS.build(dict(type='mmat.CIFAR10', data_root=str(write_folder(tmp_path)), split='test', indices=2))
    assert isinstance(data, CIFAR10) and len(data) == 2


# Missing and damaged files

def test_no_data_at_all(tmp_path):
    message = refused(tmp_path / 'nowhere', error=MissingFileError)
    for part in (str(tmp_path / 'nowhere'), FOLDER, ARCHIVE, 'download=True', CIFAR10.url, 'dataset.data_root=PATH'):
        assert part in message


def test_an_unknown_split(tmp_path):
    with pytest.raises(ConfigError, match="CIFAR10.*'train' .*'test'.*'val'"):
        CIFAR10(str(tmp_path), 'val')


@pytest.mark.parametrize('name', ['data_batch_3', 'batches.meta'])
def test_a_missing_file_in_the_folder(tmp_path, name):
    files = contents()
    del files[name]
    message = refused(write_folder(tmp_path, files), error=MissingFileError)
    assert str(tmp_path / FOLDER) in message and name in message
    # It lists the files that exist.
    assert 'data_batch_5' in message.split(name)[1]


def test_an_empty_folder(tmp_path):
    (tmp_path / FOLDER).mkdir()
    message = refused(tmp_path, error=MissingFileError)
    assert all(name in message for name in (str(tmp_path / FOLDER), *FILES[:5], 'batches.meta'))


@pytest.mark.parametrize('name', ['data_batch_3', 'batches.meta'])
def test_a_missing_file_in_the_archive(tmp_path, name):
    files = contents()
    del files[name]
    message = refused(write_archive(tmp_path, files))
    assert str(tmp_path / ARCHIVE) in message and name in message


@layouts
@pytest.mark.parametrize('name', ['data_batch_2', 'batches.meta'])
@pytest.mark.parametrize('kept', [0, 1, 40, -1])
def test_a_truncated_file(tmp_path, write, name, kept):
    files = contents()
    files[name] = python2_pickle(files[name])[:kept]
    message = refused(write(tmp_path, files))
    assert str(tmp_path / FOLDER / name) in message and 'CIFAR10' in message


@pytest.mark.parametrize('content', [b'not a pickle', b'<html>404</html>', b'\x80\x02}', bytes(range(256))])
def test_a_file_of_another_kind(tmp_path, content):
    files = contents()
    files['test_batch'] = content
    message = refused(write_folder(tmp_path, files), 'test')
    assert str(tmp_path / FOLDER / 'test_batch') in message and 'CIFAR10' in message


def test_a_file_that_holds_no_dict(tmp_path):
    files = contents()
    files['test_batch'] = [1, 2]
    message = refused(write_folder(tmp_path, files), 'test')
    assert str(tmp_path / FOLDER / 'test_batch') in message and 'list' in message


@pytest.mark.parametrize('part', [0, 0.001, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_archive(tmp_path, part):
    archive = write_archive(tmp_path) / ARCHIVE
    content = archive.read_bytes()
    archive.write_bytes(content[:int(part * len(content))])
    message = refused(tmp_path)
    assert str(archive) in message and 'CIFAR10' in message


@pytest.mark.parametrize('content', [b'<html>404</html>' * 100, b'\x1f\x8b' + b'x' * 5000])
def test_an_archive_of_another_kind(tmp_path, content):
    (tmp_path / ARCHIVE).write_bytes(content)
    assert str(tmp_path / ARCHIVE) in refused(tmp_path)


@layouts
@pytest.mark.parametrize('fields, parts', [
    (dict(labels=[0, 10, 1]), ('between 0 and 9', '0 to 10')),
    (dict(labels=[-1, 3, 1]), ('between 0 and 9', '-1 to 3')),
    (dict(labels=[0, 1]), ("'labels'", ' 3 ', ' 2.')),
    (dict(labels=None), ("'labels'", ' 3 ', 'NoneType')),
    (dict(labels=['cat', 'dog', 'frog']), ("'labels'", "'cat'")),
    (dict(labels=[0.5, 1.5, 2.5]), ("'labels'", '0.5')),
    (dict(labels=[[0], [1], [2]]), ("'labels'", '[0]')),
    (dict(labels=[0, None, 1]), ("'labels'", 'None')),
    (dict(data=np.zeros((3, 3071), np.uint8)), ("'data'", '(N, 3072)', 'uint8 (3, 3071)')),
    (dict(data=np.zeros((3, 3072), np.float32)), ("'data'", 'float32 (3, 3072)')),
    (dict(data=np.zeros((3, 3, 32, 32), np.uint8)), ("'data'", 'uint8 (3, 3, 32, 32)')),
    (dict(data=[[0] * 3072] * 3), ("'data'", 'list')),
], ids=str)
def test_wrong_content(tmp_path, write, fields, parts):
    message = refused(write(tmp_path, replaced('data_batch_4', **fields)))
    for part in ('data_batch_4', *parts):
        assert part in message


@pytest.mark.parametrize('key', ['data', 'labels'])
def test_a_missing_key(tmp_path, key):
    message = refused(write_folder(tmp_path, lacking('test_batch', key)), 'test')
    for part in (str(tmp_path / FOLDER / 'test_batch'), repr(key), 'NoneType'):
        assert part in message


@pytest.mark.parametrize('files', [lacking('batches.meta', 'label_names'),
                                   replaced('batches.meta', label_names='airplane')])
def test_a_meta_file_without_class_names(tmp_path, files):
    message = refused(write_folder(tmp_path, files))
    assert str(tmp_path / FOLDER / 'batches.meta') in message and "'label_names'" in message


# Reading a file never runs code

class RunsCommand:

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command, )


class Evaluates(RunsCommand):

    def __reduce__(self):
        return eval, (f'__import__("os").system({self.command!r})', )


@layouts
@pytest.mark.parametrize('attack, name', [(RunsCommand, '.system'), (Evaluates, '.eval')])
@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_malicious_file_is_refused_and_not_run(tmp_path, write, attack, name, protocol):
    bait = tmp_path / 'bait'
    content = contents()['data_batch_1'] | dict(labels=attack(f'touch {bait}'))
    # Verify that the attack works with plain pickle.
    content_bytes = pickle.dumps(content, protocol=protocol)
    pickle.loads(content_bytes)
    assert bait.exists()
    bait.unlink()
    message = refused(write(tmp_path, contents() | dict(data_batch_1=content_bytes)))
    assert not bait.exists()
    assert 'data_batch_1' in message and name in message


@pytest.mark.parametrize('harmless', [np.load, np.testing.assert_equal, getattr, io.BytesIO, torch.Tensor])
def test_only_globals_of_the_official_files_are_allowed(tmp_path, harmless):
    content = contents()['test_batch'] | dict(labels=harmless)
    message = refused(write_folder(tmp_path, contents() | dict(test_batch=pickle.dumps(content, protocol=2))), 'test')
    assert 'test_batch' in message and f'.{harmless.__name__}' in message


def test_members_of_an_archive_stay_inside_it(tmp_path):
    # Nothing is unpacked, so a path that leads outside writes no file.
    root = tmp_path / 'root'
    write_archive(root, contents())
    with tarfile.open(root / ARCHIVE, 'w:gz') as tar:
        for name, content in contents().items():
            content = python2_pickle(content)
            member = tarfile.TarInfo(f'../{name}')
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    CIFAR10(str(root), 'test')
    assert [path.name for path in tmp_path.iterdir()] == ['root']
    assert [path.name for path in root.iterdir()] == [ARCHIVE]


# Downloading, with the network replaced by a function

class Response(io.BytesIO):

    def __init__(self, url, content):
        super().__init__(content)
        self.url = url
        self.length = len(content)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A replacement of the official address and checksum."""
    archive = write_archive(tmp_path / 'remote') / ARCHIVE

    def urlopen(request, *args, **kwargs):
        assert request.full_url == CIFAR10.url
        return Response(request.full_url, archive.read_bytes())

    monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
    monkeypatch.setattr(CIFAR10, 'md5', hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


def test_download(tmp_path, remote):
    data = CIFAR10(str(tmp_path / 'new' / 'data'), 'test', download=True)
    assert data.labels.tolist() == [5, 4, 4]
    assert [path.name for path in (tmp_path / 'new' / 'data').iterdir()] == [ARCHIVE]
    assert (tmp_path / 'new' / 'data' / ARCHIVE).read_bytes() == remote.read_bytes()


def test_nothing_is_downloaded_unless_asked(tmp_path, remote):
    refused(tmp_path / 'new', error=MissingFileError)
    assert not (tmp_path / 'new').exists()


@layouts
def test_existing_data_is_not_downloaded_again(tmp_path, write, monkeypatch):
    monkeypatch.setattr(urllib.request, 'urlopen', lambda *args, **kwargs: pytest.fail('a download was started'))
    assert len(CIFAR10(str(write(tmp_path)), 'test', download=True)) == 3


def test_a_download_with_the_wrong_checksum_is_never_used(tmp_path, remote, monkeypatch):
    monkeypatch.setattr(CIFAR10, 'md5', '0' * 32)
    # Neither now nor by the next run, which finds the partial file.
    for _ in range(2):
        with pytest.raises(FileError, match=f'{CIFAR10.url}.*/new'):
            CIFAR10(str(tmp_path / 'new'), 'test', download=True)


def test_an_interrupted_download_starts_again(tmp_path, remote, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Response, 'read', lambda self, size: b'' if self.tell() else io.BytesIO.read(self, 100))
        with pytest.raises(FileError, match=CIFAR10.url):
            CIFAR10(str(tmp_path / 'new'), 'test', download=True)
    assert len(CIFAR10(str(tmp_path / 'new'), 'test', download=True)) == 3


@pytest.mark.parametrize('dataset, name, md5', [
    (CIFAR10, 'cifar-10-python.tar.gz', 'c58f30108f718f92721af3b95e74349a'),
    (CIFAR100, 'cifar-100-python.tar.gz', 'eb9058c3a382ffc7106e4002c42a8d85'),
])
def test_the_official_address_and_checksum(dataset, name, md5):
    assert dataset.url == f'https://www.cs.toronto.edu/~kriz/{name}'
    assert dataset.md5 == md5
