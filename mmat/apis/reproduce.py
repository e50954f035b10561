"""A table of results as one command: trains what a recipe lists, and reports."""
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import List, Optional

from mmengine.config import Config

from mmat.engine import AtomicBackend
from mmat.utils.checkpoint import find_checkpoint
from mmat.utils.zoo import find_config, zoo_root

TOOLS = zoo_root() / 'tools'


@dataclass(eq=False)
class Run:
    """One training: a config with a seed, in a folder of its own. What is on disk is its state."""
    row: dict
    seed: int
    work_dir: Path
    teacher: Optional[Path] = None

    @property
    def label(self) -> str:
        return f'{self.row["name"]}, seed {self.seed}'

    @cached_property
    def max_epochs(self) -> int:
        return Config.fromfile(find_config(self.row['config'])).train_cfg.max_epochs

    @property
    def error(self) -> Optional[float]:
        """Test error in percent after the last epoch; None as long as there is none."""
        result = self.work_dir / 'result.json'
        return json.loads(result.read_text())['error'] if result.is_file() else None

    def progress(self) -> Optional[dict]:
        """The newest line of the run's JSON log."""
        logs = sorted(self.work_dir.glob('*/vis_data/scalars.json'))
        lines = logs[-1].read_text().splitlines() if logs else []
        try:
            return json.loads(lines[-1]) if lines else None
        except json.JSONDecodeError:  # being written right now
            return None

    def start(self, threads: int) -> subprocess.Popen:
        """Train in a process of its own, from the last checkpoint where there is one."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(TOOLS / 'train.py'), self.row['config'], '--work-dir', str(self.work_dir),
                   '--seed', str(self.seed), '--resume']
        if self.teacher:
            command += ['--cfg-options', f'model.teacher.checkpoint={self.teacher}']
        with open(self.work_dir / 'train.log', 'a') as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                    env={**os.environ, 'OMP_NUM_THREADS': str(threads)})

    def finish(self) -> None:
        """Measure the trained weights, and write that down; from here on the run is done."""
        metrics = self.work_dir / 'metrics.json'
        line = self.progress() or {}
        if 'accuracy/top1' in line and line['step'] == self.max_epochs:
            accuracy = line['accuracy/top1']
        else:
            # Killed between the last checkpoint and its validation.
            subprocess.run([sys.executable, str(TOOLS / 'test.py'), self.row['config'], str(self.work_dir),
                            '--work-dir', str(self.work_dir), '--out', str(metrics)], check=True, capture_output=True)
            accuracy = json.loads(metrics.read_text())['accuracy/top1']
        result = dict(config=self.row['config'], seed=self.seed, epochs=self.max_epochs, error=100 - accuracy,
                      checkpoint=find_checkpoint(self.work_dir))
        AtomicBackend().put(json.dumps(result).encode(), self.work_dir / 'result.json')


def plan(recipe: Config, work_dir: Path, num_seeds: Optional[int] = None) -> List[Run]:
    """The runs of a recipe, teachers before their students.

    Args:
        recipe (Config): ``seeds`` and ``rows``; a row has ``name``, ``config`` and perhaps ``seeds`` of its own and
            the ``teacher``, the config of another row, whose first seed teaches it.
        work_dir (Path): The table's folder.
        num_seeds (int, optional): Take only so many seeds of each row. Defaults to None, all.

    Raises:
        ValueError: A row's teacher is not a row before it.
        FileNotFoundError: A config that is not there.
    """
    missing = [key for key in ('title', 'seeds', 'rows', 'note') if key not in recipe]
    if missing:
        raise ValueError(f'a recipe of a table lacks {", ".join(missing)}; recipes/at_digits.py shows what it has')
    runs, first = [], {}
    for row in recipe.rows:
        find_config(row.config)
        teacher = row.get('teacher')
        if teacher and teacher not in first:
            raise ValueError(f'the teacher {teacher!r} of row {row.name!r} is not the config of a row before it; '
                             f'those are {list(first)}')
        for seed in tuple(row.get('seeds', recipe.seeds))[:num_seeds]:
            run = Run(row, seed, work_dir / Path(row.config).stem / f'seed{seed}', teacher and first[teacher].work_dir)
            first.setdefault(row.config, run)
            runs.append(run)
    return runs


def execute(runs: List[Run], jobs: int, report=print) -> None:
    """Train what is not done, so many at a time, each when its teacher is.

    Raises:
        RuntimeError: A run failed, with the end of its log; the others are left as they are, to be resumed.
    """
    waiting = [run for run in runs if run.error is None]
    done = len(runs) - len(waiting)
    if done:
        report(f'{done} of {len(runs)} runs are done already')
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running, told, total = {}, {}, len(waiting)
    finished = 0
    start = time.perf_counter()
    try:
        while waiting or running:
            busy = {run.work_dir for run in [*waiting, *running]}
            for run in [run for run in waiting if run.teacher not in busy][:jobs - len(running)]:
                waiting.remove(run)
                running[run] = run.start(threads)
                report(f'{_clock(start)} started   {run.label}')
            time.sleep(0.5)
            for run, process in list(running.items()):
                if process.poll() is None:
                    line = run.progress()
                    if line and line != told.get(run) and 'accuracy/top1' in line:
                        told[run] = line
                        report(f'{_clock(start)}   epoch {line["step"]:3d}/{run.max_epochs}  {run.label}: '
                               f'error {100 - line["accuracy/top1"]:.2f} %')
                    continue
                del running[run]
                if process.returncode:
                    log = (run.work_dir / 'train.log').read_text().splitlines()
                    raise RuntimeError(f'{run.label} failed (exit status {process.returncode}). The end of '
                                       f'{run.work_dir / "train.log"}:\n' + '\n'.join(log[-15:]))
                run.finish()
                finished += 1
                report(f'{_clock(start)} done      {run.label}: error {run.error:.2f} %   [{finished}/{total}]')
    finally:
        for process in running.values():
            process.terminate()


def _clock(start: float) -> str:
    seconds = int(time.perf_counter() - start)
    return f'[{seconds // 60:d}:{seconds % 60:02d}]'


def table(recipe: Config, runs: List[Run]) -> str:
    """The results in Markdown: a row of the recipe a line."""
    lines = ['| network | config | test error, %: median | min to max | each seed |', '|---|---|---|---|---|']
    for row in recipe.rows:
        errors = {run.seed: run.error for run in runs if run.row is row}
        values = list(errors.values())
        each = ', '.join(f'{seed}: {error:.2f}' for seed, error in errors.items())
        lines.append(f'| {row.name} | {Path(row.config).stem} | {median(values):.2f} | {min(values):.2f} to '
                     f'{max(values):.2f} | {each} |')
    return '\n'.join(lines) + '\n'


def draw(recipe: Config, runs: List[Run], path: Path, count: int = 6) -> None:
    """Attention of each row's first seed on the first test images."""
    from mmat.models import get_attention_maps
    from mmat.registry import DATASETS
    from mmat.visualization import draw_attention_grid

    from .model import get_model
    dataset = DATASETS.build(Config.fromfile(find_config(recipe.rows[0].config)).test_dataloader.dataset)
    images = dataset.images[:count].float()
    attention = {}
    for row in recipe.rows:
        run = next(run for run in runs if run.row is row)
        maps = get_attention_maps(get_model(row.config, pretrained=str(run.work_dir)), images)
        attention[row.name] = {layer.split('.')[-1]: values for layer, values in maps.items()}
    titles = [dataset.metainfo['classes'][label] for label in dataset.labels[:count]]
    draw_attention_grid(images / 255, attention, path, titles, 'F_sum² of each group, stretched per image')
