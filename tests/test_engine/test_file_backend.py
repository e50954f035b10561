import os

import pytest
from mmengine.fileio import get_file_backend, put

from mmat.engine import AtomicBackend

real_open = open
BACKEND = dict(backend='mmat.atomic')


def test_it_writes_and_overwrites(tmp_path):
    path = tmp_path / 'new' / 'folder' / 'file.pth'
    for content in (b'one', b'the second is longer'):
        put(content, str(path), backend_args=BACKEND)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ['file.pth']


def test_it_is_registered_and_reads_as_a_local_backend(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'content')
    backend = get_file_backend(str(path), backend_args=BACKEND)
    assert isinstance(backend, AtomicBackend)
    assert backend.get(str(path)) == b'content'


class Disk:
    """A file that runs full after three bytes."""

    def __init__(self, path, mode):
        self.file = real_open(path, mode)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def write(self, content):
        self.file.write(content[:3])
        self.file.flush()
        raise OSError(28, 'No space left on device')


@pytest.mark.parametrize('old', [b'the old content', None])
def test_a_failure_in_the_middle_of_writing_leaves_what_was_there(old, tmp_path, monkeypatch):
    path = tmp_path / 'file.pth'
    if old is not None:
        path.write_bytes(old)
    monkeypatch.setattr('builtins.open', Disk)
    with pytest.raises(OSError, match='No space left'):
        AtomicBackend().put(b'the new content', path)
    monkeypatch.undo()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if old is None else [old])


def test_at_every_moment_there_is_a_whole_file(tmp_path, monkeypatch):
    # The file as seen by a reader, or by a run resumed after SIGKILL, at each step of the writing.
    path, found = tmp_path / 'file.pth', []
    path.write_bytes(b'old')
    for name in ('fsync', 'replace'):
        function = getattr(os, name)

        def spy(*args, name=name, function=function):
            found.append((name, path.read_bytes()))
            return function(*args)

        monkeypatch.setattr(os, name, spy)
    AtomicBackend().put(b'new', path)
    # Durable before it takes the place of the old one.
    assert found == [('fsync', b'old'), ('replace', b'old')]
    assert path.read_bytes() == b'new'
