"""Time iterations of the attention transfer authors' training script.

Their unmodified cifar.py (github.com/szagoruyko/attention-transfer, 2017) runs from a checkout. Its dependencies
torchnet and nested_dict are replaced by minimal stubs defined here; the stub of torchnet's engine reads the clock. The
MD5 check of CIFAR-10 is skipped, so that a repacked copy is accepted.
"""
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

from common import StopTraining


class _AverageValueMeter:

    def __init__(self):
        self.reset()

    def reset(self):
        self.total, self.count = 0., 0

    def add(self, value, n=1):
        self.total, self.count = self.total + value, self.count + n

    @property
    def mean(self):
        return self.total / self.count if self.count else float('nan')

    def value(self):
        return self.mean, float('nan')


class _ClassErrorMeter:
    """Top-1 only."""

    def __init__(self, accuracy=False):
        self.accuracy = accuracy
        self.reset()

    def reset(self):
        self.right, self.count = 0, 0

    def add(self, output, target):
        self.right += int((output.argmax(1).cpu() == target.cpu()).sum())
        self.count += len(target)

    def value(self):
        share = 100 * self.right / max(self.count, 1)
        return [share if self.accuracy else 100 - share]


class _TimeMeter:

    def __init__(self, unit):
        self.reset()

    def reset(self):
        self.begin = time.time()

    def value(self):
        return time.time() - self.begin


def _make_engine(ends: list, iterations: int) -> type:
    """Return a stub of torchnet's Engine that appends the time of each iteration to ``ends``."""

    class Engine:

        def __init__(self):
            self.hooks = {}

        def hook(self, name, state):
            if name in self.hooks:
                self.hooks[name](state)

        def train(self, network, iterator, maxepoch, optimizer):
            state = dict(network=network, iterator=iterator, maxepoch=maxepoch, optimizer=optimizer, epoch=0, t=0,
                         train=True)
            self.hook('on_start', state)
            while state['epoch'] < maxepoch:
                self.hook('on_start_epoch', state)
                for sample in state['iterator']:
                    state['sample'] = sample
                    self.hook('on_sample', state)

                    def closure():
                        state['loss'], state['output'] = network(state['sample'])
                        state['loss'].backward()
                        self.hook('on_forward', state)
                        loss, state['loss'], state['output'] = state['loss'], None, None
                        return loss

                    state['optimizer'].zero_grad()
                    state['optimizer'].step(closure)
                    self.hook('on_update', state)
                    state['t'] += 1
                    ends.append(time.time())
                    if len(ends) == iterations:
                        raise StopTraining
                state['epoch'] += 1
            raise RuntimeError(f'The training ended after {len(ends)} of {iterations} iterations.')

    return Engine


class _NestedDict(dict):

    def items_flat(self, path=()):
        for key, value in self.items():
            if isinstance(value, dict):
                yield from _NestedDict(value).items_flat((*path, key))
            else:
                yield (*path, key), value


def _install_stubs(ends: list, iterations: int) -> None:
    def stub(name, **content):
        sys.modules[name] = module = ModuleType(name)
        module.__dict__.update(content)
        return module

    meter = stub('torchnet.meter', AverageValueMeter=_AverageValueMeter, ClassErrorMeter=_ClassErrorMeter,
                 TimeMeter=_TimeMeter)
    engine = stub('torchnet.engine', Engine=_make_engine(ends, iterations))
    stub('torchnet', meter=meter, engine=engine)
    stub('nested_dict', nested_dict=_NestedDict)
    skip_checksums()


def skip_checksums() -> None:
    """Make torchvision read CIFAR without checking MD5 sums, so that a repacked copy is accepted."""
    import torchvision.datasets.cifar as cifar
    cifar.check_integrity = lambda path, md5=None: Path(path).is_file()


def run(checkout: str, data: str, folder: str, iterations: int, batch: int, workers: int) -> dict:
    """Train WRN-16-1 with attention transfer from an untrained WRN-16-2, which costs as much as a trained one.

    Args:
        checkout (str): Folder of the repository.
        data (str): Folder that contains ``cifar-10-batches-py``.
        folder (str): Working directory of the script.
        iterations (int): Number of iterations.
        batch (int): Batch size.
        workers (int): Workers of the script's loader.

    Returns:
        dict: See :func:`timed_training.run`.
    """
    import torch
    ends: list = []
    _install_stubs(ends, iterations)
    sys.path.insert(0, str(Path(checkout).resolve()))
    data = str(Path(data).resolve())
    os.chdir(folder)
    import cifar as script
    teacher = Path('logs', 'teacher')
    teacher.mkdir(parents=True)
    (teacher / 'log.txt').write_text('json_stats: ' + json.dumps(dict(depth=16, width=2)) + '\n')
    torch.save(dict(params={key: value.detach() for key, value in script.resnet(16, 2, 10)[1].items()}),
               teacher / 'model.pt7')
    sys.argv = ['cifar.py', '--depth', '16', '--width', '1', '--teacher_id', 'teacher', '--beta', '1e+3', '--dataroot',
                data, '--batch_size', str(batch), '--nthread', str(workers), '--save', 'run']
    try:
        script.main()
    except StopTraining:
        return dict(ends=ends, images=batch)
