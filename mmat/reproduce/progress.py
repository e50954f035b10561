"""How far the trainings of a table are."""
import time
from typing import Dict

from .pool import DONE, RUNNING
from .run import Run


class PlainProgress:
    """A line for everything that happens: for logs, and terminals that cannot do better."""

    def __init__(self, write=print):
        self.write = write
        self.start = time.perf_counter()
        self.told: Dict[Run, tuple] = {}

    def __call__(self, states: Dict[Run, str]) -> None:
        done = sum(state == DONE for state in states.values())
        for run, state in states.items():
            step = None
            if state == RUNNING:
                validated = [line for line in run.progress() if 'accuracy/top1' in line]
                step = validated[-1]['step'] if validated else 0
            if self.told.get(run) == (state, step):
                continue
            self.told[run] = (state, step)
            text = f'{state:8s}{run.label}'
            if step:
                text += f': epoch {step}/{run.epochs}, accuracy {validated[-1]["accuracy/top1"]:.2f} %'
            if state == DONE:
                text += f': accuracy {run.result["metrics"]["accuracy/top1"]:.2f} %   [{done}/{len(states)}]'
            if state != 'waiting':
                self.write(f'{self.clock()} {text}')

    def clock(self) -> str:
        seconds = int(time.perf_counter() - self.start)
        return f'[{seconds // 3600:d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}]'
