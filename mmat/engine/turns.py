"""Threads that take turns: several loops in one process, of which exactly one goes on at any time."""
import threading
from collections import deque
from typing import Callable, Hashable, Iterable, Iterator, Mapping


class Stopped(BaseException):
    """Ends a thread whose others have failed. Not an Exception, so that nothing on the way out takes it for one."""


class Turns:
    """Runs tasks in threads that hand each other the turn, in the order in which they were given.

    Nothing is parallel: it lets loops that were written to run alone, such as mmengine's, go on step by step.
    """

    def __init__(self):
        self._condition = threading.Condition()
        # Whose turn it is comes first.
        self._ring = deque()
        self._error = None
        self._ended = False

    def run(self, tasks: Mapping[Hashable, Callable[[], None]]) -> None:
        """Run tasks to their ends. One that ends leaves the others to it.

        Args:
            tasks (Mapping[Hashable, Callable]): By name. Each calls :meth:`hand_over` where another may go on.

        Raises:
            BaseException: What the first task that failed has raised, SystemExit too, or KeyboardInterrupt from here;
                by then all have ended, at their next :meth:`hand_over` or :meth:`check`.
        """
        self._ring.extend(tasks)
        threads = [threading.Thread(target=self._live, args=(name, task), name=f'turns of {name}')
                   for name, task in tasks.items()]
        try:
            for thread in threads:
                thread.start()
            with self._condition:
                self._condition.wait_for(lambda: not self._ring)
        finally:
            # A Ctrl-C arrives here, in the main thread.
            self._end()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._error

    def _live(self, name: Hashable, task: Callable[[], None]) -> None:
        try:
            self._wait(name)
            task()
        except Stopped:
            pass
        except BaseException as error:
            self._error = self._error or error
            self._end()
        finally:
            with self._condition:
                self._ring.remove(name)
                self._condition.notify_all()

    def _wait(self, name: Hashable) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._ended or self._ring[0] == name)
        self.check()

    def _end(self) -> None:
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    @property
    def alone(self) -> bool:
        """Whether there is nobody else left."""
        return len(self._ring) == 1

    def check(self) -> None:
        """Raise :class:`Stopped` where another task has failed; for loops that go on for long within a turn."""
        if self._ended:
            raise Stopped

    def checked(self, items: Iterable) -> Iterator:
        """The items, with a :meth:`check` before each."""
        for item in items:
            self.check()
            yield item

    def hand_over(self) -> None:
        """Let the others go on, each for its turn, and come back. Called by the task whose turn it is."""
        with self._condition:
            name = self._ring[0]
            self._ring.rotate(-1)
            self._condition.notify_all()
        self._wait(name)
