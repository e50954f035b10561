import ctypes
import platform
import subprocess
import sys

import pytest

from mmat.utils.cpu import keep_freed_memory

# Counts the page faults of filling 32 MiB a second time, after they were freed. Each of 8192 pages of 4 KiB faults
# anew where the allocator gave them back.
FAULTS = """
import resource, sys
from mmat.utils.cpu import keep_freed_memory
if sys.argv[1] == 'keep':
    assert keep_freed_memory() is True

def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b'x') * 2**25
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fill()
print(fill())
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='another allocator')


def faults(mode):
    result = subprocess.run([sys.executable, '-c', FAULTS, mode], capture_output=True, text=True, check=True)
    return int(result.stdout)


@glibc
def test_freed_memory_is_used_again_without_page_faults():
    without = faults('default')
    if without < 1000:
        pytest.skip('huge pages hide what the allocator does')
    assert faults('keep') < without / 10


@pytest.mark.parametrize('system', ['darwin', 'win32'])
def test_other_systems_are_left_alone(monkeypatch, system):
    monkeypatch.setattr(sys, 'platform', system)
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: pytest.fail('it looked for a library'))
    assert keep_freed_memory() is False


class Library:
    """A C library whose mallopt takes all options but one."""

    def __init__(self, refused=None):
        self.refused = refused
        self.options = {}

    def mallopt(self, option, value):
        self.options[option] = value
        return int(option != self.refused)


@pytest.mark.parametrize('refused', [-1, -2, -4])
def test_a_rejected_option_is_reported(monkeypatch, refused):
    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: Library(refused))
    assert keep_freed_memory() is False


def test_values_fit_the_int_that_mallopt_takes(monkeypatch):
    library = Library()
    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: library)
    assert keep_freed_memory() is True
    # M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_MAX of malloc.h
    assert library.options.keys() == {-1, -2, -4}
    assert all(0 <= value < 2**31 for value in library.options.values())


def missing(name):
    raise OSError(name)


@pytest.mark.parametrize('cdll', [missing, lambda name: object()], ids=['no library', 'no mallopt'])
def test_another_allocator_is_left_alone(monkeypatch, cdll):
    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.setattr(ctypes, 'CDLL', cdll)
    assert keep_freed_memory() is False
