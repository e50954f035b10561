import sys
import threading

import pytest

from mmat.engine.round_robin import RoundRobin
from mmat.errors import MissingPackageError


def test_tasks_run_in_order_one_step_each_and_continue_when_one_ends():
    tasks, steps, running = RoundRobin(), [], []

    def task(name, count):
        for step in range(count):
            assert not running  # no other task is in the middle of a step
            running.append(name)
            steps.append((name, step))
            running.remove(name)
            tasks.switch()
        steps.append((name, 'end', len(tasks)))

    tasks.run({name: lambda name=name, count=count: task(name, count)
               for name, count in (('c', 1), ('a', 3), ('b', 2))})
    assert steps == [('c', 0), ('a', 0), ('b', 0), ('c', 'end', 3), ('a', 1), ('b', 1), ('a', 2),
                     ('b', 'end', 2), ('a', 'end', 1)]


@pytest.mark.parametrize('error', [ValueError('x'), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize('before', [True, False])
def test_an_exception_ends_all_tasks_and_is_raised(error, before):
    tasks, ends = RoundRobin(), []

    def lasting():
        try:
            while True:
                tasks.switch()
        finally:
            ends.append(True)

    def failing():
        if not before:
            tasks.switch()
        raise error

    with pytest.raises(type(error)) as raised:
        tasks.run(dict(a=lasting, b=failing, c=lasting))
    # c has not started if b fails in its first step.
    assert raised.value is error and len(ends) == (1 if before else 2)


def test_all_tasks_run_in_one_thread():
    """Separate threads would have separate OpenMP workers."""
    tasks, threads = RoundRobin(), set()

    def task():
        for _ in range(3):
            threads.add(threading.get_ident())
            tasks.switch()

    tasks.run(dict(a=task, b=task))
    assert threads == {threading.get_ident()}


def test_an_error_during_cleanup_does_not_hide_the_first():
    tasks = RoundRobin()

    def lasting():
        try:
            tasks.switch()
        finally:
            raise OSError('while it ended')

    def failing():
        raise ValueError('first')

    with pytest.raises(ValueError, match='first'):
        tasks.run(dict(a=lasting, b=failing))


def test_greenlet_is_required(monkeypatch):
    monkeypatch.setitem(sys.modules, 'greenlet', None)
    with pytest.raises(MissingPackageError, match='pip install greenlet'):
        RoundRobin().run(dict(a=lambda: None))
