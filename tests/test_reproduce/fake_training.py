"""A fake training that takes a tenth of a second, writes the files of a real one, and resumes.

Its weights are a hash that every epoch updates from the seed, the teacher's weights, the batch seed and the previous
hash. A run that skips or repeats an epoch, uses other batches or starts before its teacher is done ends with different
weights. Seeds that are trained together resume from the last epoch that all of them have.
"""
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

# sitecustomize.py, which Python runs at startup: replaces the training in the processes of a job.
_CUSTOMIZE = """
import sys
from mmat.reproduce import provenance, run
def command(self, tool='train', together=()):
    batches = '' if self.batch_seed is None else f' {{self.batch_seed}}'
    folders = [word for seed in together or [self.seed] for word in (
        str(seed), str(self.work_dir.with_name(f'seed{{seed}}')))]
    return [sys.executable, '-I', '-S', {script!r}, tool, str(self.epochs),
            str(self.teacher.work_dir) if self.teacher else '', batches, *folders]
run.Run.command = command
provenance.describe_code = lambda: dict(commit='abc', versions=dict(mmat='1'))
provenance.describe_hardware = lambda processes: f'{{processes}} abacus'
provenance.describe_precision = lambda work_dir: 'fp32'
"""


def install(monkeypatch, folder, delay=0.02, **settings):
    """Replace the training in jobs that this process starts.

    Args:
        delay (float): Seconds per epoch.
        fail (list[str]): Folders, such as 'a/seed0', whose training exits with status 3 in the second epoch.
        no_validation (bool): Whether trainings end before the last validation.

    While a file ``hold`` exists in the folder, trainings pause after the current epoch.
    """
    (folder / 'customize').mkdir(exist_ok=True)
    (folder / 'customize' / 'sitecustomize.py').write_text(_CUSTOMIZE.format(script=__file__))
    monkeypatch.setenv('PYTHONPATH', str(folder / 'customize'), prepend=os.pathsep)
    monkeypatch.setenv('FAKE', json.dumps(dict(settings, delay=delay, events=str(folder / 'events'))))


def events(folder):
    """Return the events in order: 'begin' or 'end', the run's folder, its first epoch, and the PID."""
    file = folder / 'events'
    return [line.split() for line in file.read_text().splitlines()] if file.is_file() else []


def weights_of(seed, epochs, teacher='', batch_seed=None):
    """Return the final weights of an uninterrupted training."""
    batches = '' if batch_seed is None else f' {batch_seed}'
    weights = '0'
    for epoch in range(1, epochs + 1):
        weights = _step(weights, epoch, seed, teacher, batches)
    return weights


def accuracy_of(weights):
    return int(weights[:4], 16) / 65536 * 100


def make_runs(folder, epochs=4):
    """Make five runs: a teacher, its student that teaches two others, and a run without teacher."""
    from mmat.reproduce.run import Run  # the fake training itself runs without mmat
    teacher = Run(folder / 'teacher' / 'seed0', 'teacher', 0, epochs)
    middle = Run(folder / 'middle' / 'seed0', 'middle', 0, epochs, teacher=teacher)
    return [teacher, middle, Run(folder / 'alone' / 'seed0', 'alone', 0, epochs),
            Run(folder / 'last' / 'seed0', 'last', 0, epochs, teacher=middle),
            Run(folder / 'last' / 'seed1', 'last', 1, epochs, teacher=middle)]


def expected(epochs=4):
    """Return the expected accuracies by folder."""
    teacher = weights_of(0, epochs)
    middle = weights_of(0, epochs, teacher)
    final = dict(teacher=teacher, alone=weights_of(0, epochs), middle=middle)
    final = {f'{name}/seed0': weights for name, weights in final.items()}
    final.update({f'last/seed{seed}': weights_of(seed, epochs, middle) for seed in (0, 1)})
    return {name: accuracy_of(weights) for name, weights in final.items()}


def measured(folder):
    return {'/'.join(file.parts[-3:-1]): json.loads(file.read_text())['metrics']['accuracy/top1']
            for file in folder.glob('*/*/result.json')}


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def trainings_in(folder):
    """Return the PIDs of the processes that train in a folder, zombies excluded."""
    found = subprocess.run(['ps', '-ww', '-eo', 'pid,stat,args'], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in found.splitlines()
            if __file__ in line and str(folder) in line and not line.split()[1].startswith('Z')]


def _step(weights, epoch, seed, teacher, batches):
    return hashlib.sha256(f'{weights} {epoch} {seed} {teacher}{batches}'.encode()).hexdigest()


def _done_in(work_dir):
    """Return the epoch of the last checkpoint."""
    pointer = work_dir / 'last_checkpoint'
    return int(Path(pointer.read_text()).stem.split('_')[1]) if pointer.is_file() else 0


def _weights_in(work_dir, epoch):
    return (work_dir / f'epoch_{epoch}.pth').read_text() if epoch else '0'


def _write(path, text):
    path.with_name('part').write_text(text)
    os.replace(path.with_name('part'), path)


class Student:
    """A seed during training."""

    def __init__(self, seed, work_dir):
        self.seed, self.work_dir, self.name = int(seed), work_dir, '/'.join(work_dir.parts[-2:])
        claim = os.open(work_dir / 'claim', os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (work_dir / 'CLASH').touch()
        self.log = work_dir / str(time.time_ns()) / 'vis_data' / 'scalars.json'
        self.log.parent.mkdir(parents=True)

    def log_line(self, line):
        with open(self.log, 'a') as file:
            print(json.dumps(line), file=file)

    def train(self, epoch, teacher, batches, validate):
        self.weights = _step(self.weights, epoch, self.seed, teacher, batches)
        self.log_line(dict(loss=1., epoch=epoch, iter=5 * epoch, step=5 * epoch))
        _write(self.work_dir / f'epoch_{epoch}.pth', self.weights)
        _write(self.work_dir / 'last_checkpoint', f'/elsewhere/epoch_{epoch}.pth')
        if validate:
            self.log_line({'accuracy/top1': accuracy_of(self.weights), 'step': epoch})


def main(tool, epochs, teacher, batches, *seeds_and_folders):
    settings, epochs = json.loads(os.environ['FAKE']), int(epochs)
    folders = [Path(folder) for folder in seeds_and_folders[1::2]]
    if tool == 'test':
        folder, = folders
        accuracy = accuracy_of(_weights_in(folder, _done_in(folder)))
        _write(folder / 'test.json', json.dumps({'accuracy/top1': accuracy}))
        return
    students = [Student(*each) for each in zip(seeds_and_folders[::2], folders)]
    done = min(map(_done_in, folders))
    teacher_weights = _weights_in(Path(teacher), _done_in(Path(teacher))) if teacher else ''
    with open(settings['events'], 'a') as file:
        for student in students:
            student.weights = _weights_in(student.work_dir, done)
            print('begin', student.name, done, os.getpid(), file=file)
    print('training', *(student.name for student in students))
    for epoch in range(done + 1, epochs + 1):
        time.sleep(settings['delay'])
        for student in students:
            if epoch == 2 and student.name in settings.get('fail', ()):
                print('the cause')
                sys.exit(3)
            student.train(epoch, teacher_weights, batches, epoch < epochs or not settings.get('no_validation'))
        while Path(settings['events']).with_name('hold').exists():
            time.sleep(0.02)
    with open(settings['events'], 'a') as file:
        for student in students:
            print('end', student.name, done, os.getpid(), file=file)


if __name__ == '__main__':
    main(*sys.argv[1:])
