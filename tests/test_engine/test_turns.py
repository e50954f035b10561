import _thread
import threading

import pytest

from mmat.engine.turns import Turns


def threads():
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


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
    assert not threads()


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
    assert raised.value is error and len(ends) == (1 if before else 2) and not threads()


def test_ctrl_c_ends_all_also_one_that_does_not_hand_over():
    turns = Turns()

    def lasting():
        _thread.interrupt_main()
        for _ in turns.checked(iter(int, 1)):  # endless
            pass

    with pytest.raises(KeyboardInterrupt):
        turns.run(dict(a=lasting, b=turns.hand_over))
    assert not threads()
