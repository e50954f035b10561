"""Tasks that take turns: several loops in one thread, of which one goes on at a time."""
from collections import deque
from typing import Callable, Hashable, Mapping


def import_greenlet():
    """The package of that name.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    try:
        import greenlet
    except ImportError:
        raise ImportError("several seeds in one process take turns by means of greenlet, which is not installed: "
                          "pip install 'mmat[seeds]', or pip install greenlet") from None
    return greenlet


class Turns:
    """Runs tasks that hand each other the turn, in the order in which they were given.

    It lets loops that were written to run alone, such as mmengine's, go on step by step. They are greenlets: threads
    would each have OpenMP workers of their own, which wait for their turn at the cost of those that work.
    """

    def __init__(self):
        # Whose turn it is comes first.
        self._ring = deque()

    def run(self, tasks: Mapping[Hashable, Callable[[], None]]) -> None:
        """Run tasks to their ends. One that ends leaves the others to it.

        Args:
            tasks (Mapping[Hashable, Callable]): By name. Each calls :meth:`hand_over` where another may go on.

        Raises:
            BaseException: What the first task that failed has raised, SystemExit and KeyboardInterrupt too; by then all
                have ended.
            ImportError: greenlet is not installed.
        """
        greenlet = import_greenlet()
        self._home = greenlet.getcurrent()
        self._ring.extend(greenlet.greenlet(task) for task in tasks.values())
        try:
            while self._ring:
                task = self._ring[0]
                # Comes back when the task hands over, or has ended; what it raised arrives here.
                task.switch()
                if task.dead:
                    self._ring.popleft()
                else:
                    self._ring.rotate(-1)
        finally:
            for task in self._ring:
                if not task.dead:
                    try:
                        task.throw()  # GreenletExit, which is no Exception
                    except BaseException:  # what it ends for is being raised already
                        pass

    @property
    def alone(self) -> bool:
        """Whether there is nobody else left."""
        return len(self._ring) == 1

    def hand_over(self) -> None:
        """Let the others go on, each for its turn, and come back. Called by the task whose turn it is."""
        self._home.switch()
