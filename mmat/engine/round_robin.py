"""Run several loops in one thread, one step each in turn."""
from collections import deque
from typing import Callable, Hashable, Mapping

from mmat.errors import MissingPackageError


def import_greenlet():
    """Return the package greenlet.

    Raises:
        MissingPackageError: greenlet is not installed.
    """
    try:
        import greenlet
    except ImportError:
        raise MissingPackageError('Training several seeds in one process needs greenlet, which is not installed. '
                                  "Run pip install 'mmat[seeds]', or pip install greenlet.") from None
    return greenlet


class RoundRobin:
    """Run tasks in a fixed order; each runs until it calls :meth:`switch`.

    Loops written to run alone, such as mmengine's, can so advance step by step. The tasks are greenlets, not threads:
    each thread would start its own OpenMP workers, whose busy waiting slows down the active ones.
    """

    def __init__(self):
        # The running task comes first.
        self._tasks = deque()

    def run(self, tasks: Mapping[Hashable, Callable[[], None]]) -> None:
        """Run tasks to their ends. The others continue when one ends.

        Args:
            tasks (Mapping[Hashable, Callable]): Tasks by name. Each calls :meth:`switch` to let the others run.

        Raises:
            BaseException: The first exception of a task, SystemExit and KeyboardInterrupt included. All tasks are ended
                before it is raised.
            MissingPackageError: greenlet is not installed.
        """
        greenlet = import_greenlet()
        self._scheduler = greenlet.getcurrent()
        self._tasks.extend(greenlet.greenlet(task) for task in tasks.values())
        try:
            while self._tasks:
                task = self._tasks[0]
                # Returns when the task switches or ends, and raises the task's exception.
                task.switch()
                if task.dead:
                    self._tasks.popleft()
                else:
                    self._tasks.rotate(-1)
        finally:
            for task in self._tasks:
                if not task.dead:
                    try:
                        task.throw()  # GreenletExit, a BaseException
                    except BaseException:  # the first exception is already being raised
                        pass

    def __len__(self) -> int:
        """Number of tasks that have not ended."""
        return len(self._tasks)

    def switch(self) -> None:
        """Let every other task run until it switches, then return. Called by the running task."""
        self._scheduler.switch()
