"""What a training's logs say, while they are being written."""
import json
import time
from pathlib import Path
from typing import Dict, Optional

from .run import Run

METRIC = 'accuracy/top1'


class RunLog:
    """What the JSON logs of a run say, read as they grow.

    Attributes:
        epoch (float): Epochs that are done, with the part of the present one where it is known.
        validated (int): The epoch of the last validation, 0 before the first.
        accuracy (float, optional): What that gave, in percent.
        resumed (int, optional): The epoch from which it last went on.
        pace (float, optional): Seconds an epoch takes, validation included, since it was last begun.
    """

    def __init__(self, run: Run):
        self.run = run
        self.epoch, self.validated = 0., 0
        self.accuracy = self.resumed = self.pace = None
        self._read: Dict[Path, int] = {}
        self._told = 0.
        self._first = self._length = None
        self._last = (0, 0)

    def read(self) -> None:
        """Read what is new."""
        for file in sorted(self.run.work_dir.glob('*/vis_data/scalars.json')):
            try:
                self._follow(file)
            except FileNotFoundError:  # whoever deletes a folder shall not stop the others
                continue

    def _follow(self, file: Path) -> None:
        if file not in self._read:
            self._read[file], self._first, self.pace = 0, None, None
            self._begun = (self.run.record.get('attempts') or [dict(started=time.time())])[-1]['started']
        if file.stat().st_size == self._read[file]:
            return
        with open(file, 'rb') as lines:
            lines.seek(self._read[file])
            for line in lines:
                if not line.endswith(b'\n'):  # it is being written, or was when the run was killed
                    break
                self._read[file] += len(line)
                self._take(line)
        self._told = file.stat().st_mtime
        if self._first is not None and self.epoch > self._first and self._told > self._begun:
            self.pace = (self._told - self._begun) / (self.epoch - self._first)

    def _take(self, line: bytes) -> None:
        try:
            line = json.loads(line)
        except ValueError:
            return
        if 'epoch' in line:  # of the training; its step is the iteration
            epoch, iteration = line['epoch'], line['iter']
            if self._first is None:
                self._first = epoch - 1
                self.resumed = self._first or None
            elif epoch > self._last[0] > 0:
                self._length = self._last[1] / self._last[0]
            self._last = (epoch, iteration)
            self.epoch = min(iteration / self._length, epoch) if self._length else epoch - 1
        elif METRIC in line:
            self.epoch = self.validated = line['step']
            self.accuracy = line[METRIC]
            if self._last[1] and self.validated:
                self._length = self._last[1] / self.validated

    def left(self, pace: Optional[float]) -> Optional[float]:
        """Seconds until the end at a pace, None without one."""
        if pace is None:
            return None
        # What has gone by since the last line; nobody knows of more than an epoch.
        since = min(max(0., time.time() - self._told), pace) if self._told else 0.
        return max(0., (self.run.epochs - self.epoch) * pace - since)
