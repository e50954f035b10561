import sys

import numpy as np
import pytest
import torch

from mmat.converters import read_hickle
from mmat.errors import CheckpointError, MissingFileError, MissingPackageError

h5py = pytest.importorskip('h5py')

ARRAYS = {'conv0.weight': np.arange(24, dtype='float32').reshape(2, 3, 2, 2), 'fc.bias': np.float32([1, -2])}
# Path of a key's array, observed with hickle 1.4.0, 2.0.6, 3.4.7, 4.0.4 and 5.0.2.
LAYOUTS = ['{}', 'data/{}', 'data_0/{}/data_0', "data_0/'{}'/data_0", "data/'{}'/data", 'data/"{}"']


def write(path, layout, arrays=ARRAYS):
    with h5py.File(path, 'w') as file:
        for key, value in arrays.items():
            file[layout.format(key)] = value


def check(found):
    assert found.keys() == ARRAYS.keys()
    for key, value in ARRAYS.items():
        assert found[key].dtype == torch.float32 and found[key].numpy().tolist() == value.tolist()


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(tmp_path, layout):
    write(tmp_path / 'a.hkl', layout)
    check(read_hickle(tmp_path / 'a.hkl'))


def test_nested_dictionaries(tmp_path):
    with h5py.File(tmp_path / 'a.hkl', 'w') as file:
        file['data_0/conv0/data_0/weight/data_0'] = ARRAYS['conv0.weight']
        file['data_0/fc/data_0/bias/data_0'] = ARRAYS['fc.bias']
    check(read_hickle(tmp_path / 'a.hkl'))


def test_only_arrays_of_numbers_are_read(tmp_path):
    write(tmp_path / 'a.hkl', 'data/{}')
    with h5py.File(tmp_path / 'a.hkl', 'a') as file:
        # Types as hickle stores them, and a pickled object.
        file['type'] = np.bytes_('dict')
        file['data/_conv0.weight'] = [np.bytes_('ndarray')]
        file['data/object'] = [np.void(b'cos\nsystem\n(S"echo"\ntR.')]
        file['data/epoch'] = 3
    check(read_hickle(tmp_path / 'a.hkl'))


@pytest.mark.parametrize('dtype', ['>f4', '<f4'])
def test_byte_orders(tmp_path, dtype):
    write(tmp_path / 'a.hkl', '{}', {key: value.astype(dtype) for key, value in ARRAYS.items()})
    check(read_hickle(tmp_path / 'a.hkl'))


def test_unreadable_files(tmp_path):
    with pytest.raises(MissingFileError, match=r'/a\.hkl'):
        read_hickle(tmp_path / 'a.hkl')
    write(tmp_path / 'a.hkl', 'data_0/{}/data_0')
    content = (tmp_path / 'a.hkl').read_bytes()
    for name, part in (('half.hkl', content[:len(content) // 2]), ('other.hkl', b'no HDF5'), ('empty.hkl', b'')):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(CheckpointError, match=f'/{name}.* HDF5'):
            read_hickle(tmp_path / name)
    write(tmp_path / 'text.hkl', '{}', {'a': 'text'})
    with pytest.raises(CheckpointError, match=r'/text\.hkl.* floating-point '):
        read_hickle(tmp_path / 'text.hkl')
    with h5py.File(tmp_path / 'twice.hkl', 'w') as file:
        file['data_0/fc.bias/data_0'] = file['data_1/fc.bias/data_0'] = ARRAYS['fc.bias']
        file['data_1/fc.bias/data_1'] = ARRAYS['fc.bias']
    with pytest.raises(CheckpointError, match=r"/twice\.hkl.*'fc\.bias'"):
        read_hickle(tmp_path / 'twice.hkl')


def test_without_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(MissingPackageError, match='pip install h5py'):
        read_hickle('a.hkl')
