import sys
import threading

import pytest

from mmat.engine.round_robin import Turns


def test_in_the_order_given_one_step_each_and_who_ends_leaves_the_others():
    turns, seen, running = Turns(), [], []

    def task(name, steps):
        for step in range(steps):
            assert not running  # nobody else is between its turns' ends
            running.append(name)
            seen.append((name, step))
            running.remove(name)
            turns.hand_over()
        seen.append((name, 'end', turns.alone))

    turns.run({name: lambda name=name, steps=steps: task(name, steps)
               for name, steps in (('c', 1), ('a', 3), ('b', 2))})
    assert seen == [('c', 0), ('a', 0), ('b', 0), ('c', 'end', False), ('a', 1), ('b', 1), ('a', 2),
                    ('b', 'end', False), ('a', 'end', True)]


@pytest.mark.parametrize('error', [ValueError('x'), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize('before', [True, False])
def test_what_one_raises_ends_all_and_is_raised(error, before):
    turns, ends = Turns(), []

    def lasting():
        try:
            while True:
                turns.hand_over()
        finally:
            ends.append(True)

    def failing():
        if not before:
            turns.hand_over()
        raise error

    with pytest.raises(type(error)) as raised:
        turns.run(dict(a=lasting, b=failing, c=lasting))
    # c had no turn yet where b fails in its first.
    assert raised.value is error and len(ends) == (1 if before else 2)


def test_all_go_on_in_one_thread():
    """Threads of their own would have OpenMP workers of their own."""
    turns, seen = Turns(), set()

    def task():
        for _ in range(3):
            seen.add(threading.get_ident())
            turns.hand_over()

    turns.run(dict(a=task, b=task))
    assert seen == {threading.get_ident()}


def test_an_error_on_the_way_out_does_not_hide_the_first():
    turns = Turns()

    def lasting():
        try:
            turns.hand_over()
        finally:
            raise OSError('while it ended')

    def failing():
        raise ValueError('first')

    with pytest.raises(ValueError, match='first'):
        turns.run(dict(a=lasting, b=failing))


def test_without_greenlet_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'greenlet', None)
    with pytest.raises(ImportError, match='pip install greenlet'):
        Turns().run(dict(a=lambda: None))
