import os
import threading

import pytest

from mmat.utils.files import write_atomic


def test_folders_are_made_and_files_replaced(tmp_path):
    path = tmp_path / 'a' / 'b' / 'file'
    write_atomic(path, b'one')
    write_atomic(str(path), b'two')
    assert path.read_bytes() == b'two' and os.listdir(path.parent) == ['file']


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_atomic(path, b'one')

    def full(descriptor):
        assert path.read_bytes() == b'one'
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        write_atomic(path, b'two')
    assert path.read_bytes() == b'one' and os.listdir(tmp_path) == ['file']


def test_a_folder_in_its_place(tmp_path):
    (tmp_path / 'file').mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / 'file', b'one')
    assert os.listdir(tmp_path) == ['file']


def test_a_concurrent_reader_sees_one_whole_version(tmp_path):
    path, contents = tmp_path / 'file', [b'a' * 10**6, b'b' * 10**6]
    write_atomic(path, contents[0])
    seen, over = [], threading.Event()

    def read():
        while not over.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(10):
        write_atomic(path, contents[index % 2])
    over.set()
    reader.join()
    assert seen and all(content in contents for content in seen)
