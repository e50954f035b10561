"""Follow the logs of a run while they are written."""
import json
import time
from pathlib import Path
from typing import Dict, Optional

from .run import Run

METRIC = 'accuracy/top1'


class RunLog:
    """Read the JSON logs of a run as they grow.

    Attributes:
        epoch (float): Finished epochs, with the fraction of the current one if known.
        validated (int): Epoch of the last validation, 0 before the first.
        accuracy (float, optional): Accuracy of the last validation, in percent.
        resumed (int, optional): Epoch from which training was last resumed.
        pace (float, optional): Seconds per epoch of the last attempt, validation included.
    """

    def __init__(self, run: Run):
        self.run = run
        self.epoch, self.validated = 0., 0
        self.accuracy = self.resumed = self.pace = None
        self._offsets: Dict[Path, int] = {}
        self._last_write = 0.
        # Epoch before the first one of the attempt, iterations per epoch, and the last logged epoch and iteration.
        self._first = self._epoch_length = None
        self._last = (0, 0)

    def read(self) -> None:
        """Read the new lines."""
        for file in sorted(self.run.work_dir.glob('*/vis_data/scalars.json')):
            try:
                self._read_file(file)
            except FileNotFoundError:  # deleted in the meantime
                continue

    def _read_file(self, file: Path) -> None:
        if file not in self._offsets:  # each attempt has a separate log
            self._offsets[file], self._first, self.pace = 0, None, None
            self._started = (self.run.record.get('attempts') or [dict(started=time.time())])[-1]['started']
        if file.stat().st_size == self._offsets[file]:
            return
        with open(file, 'rb') as lines:
            lines.seek(self._offsets[file])
            for line in lines:
                if not line.endswith(b'\n'):  # incomplete: being written, or cut off by a kill
                    break
                self._offsets[file] += len(line)
                self._parse(line)
        self._last_write = file.stat().st_mtime
        if self._first is not None and self.epoch > self._first and self._last_write > self._started:
            self.pace = (self._last_write - self._started) / (self.epoch - self._first)

    def _parse(self, line: bytes) -> None:
        try:
            line = json.loads(line)
        except ValueError:
            return
        if 'epoch' in line:  # a training line
            epoch, iteration = line['epoch'], line['iter']
            if self._first is None:
                self._first = epoch - 1
                self.resumed = self._first or None
            elif epoch > self._last[0] > 0:
                self._epoch_length = self._last[1] / self._last[0]
            self._last = (epoch, iteration)
            self.epoch = min(iteration / self._epoch_length, epoch) if self._epoch_length else epoch - 1
        elif METRIC in line:  # a validation line, whose step is the epoch
            self.epoch = self.validated = line['step']
            self.accuracy = line[METRIC]
            if self._last[1] and self.validated:
                self._epoch_length = self._last[1] / self.validated

    def left(self, pace: Optional[float]) -> Optional[float]:
        """Return the seconds until the end at a pace, in seconds per epoch; None without a pace."""
        if pace is None:
            return None
        # Time since the last line counts as progress, up to one epoch.
        since = min(max(0., time.time() - self._last_write), pace) if self._last_write else 0.
        return max(0., (self.run.epochs - self.epoch) * pace - since)
