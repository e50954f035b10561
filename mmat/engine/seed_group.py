"""Train several seeds of one config in one process, sharing batches and the teacher's forward pass."""
from functools import partial
from itertools import count
from typing import Callable, Dict, Iterator, Optional, Sequence

import torch
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from mmat.errors import ConfigError, UserError
from mmat.models import Distiller
from mmat.models.data_preprocessor import BatchPreprocessor
from mmat.utils.checkpoint import unwrap
from mmat.utils.rng import get_rng_state, set_rng_state

from .hooks import DistillationHook
from .round_robin import RoundRobin


def train_together(seeds: Sequence[int], build_runner: Callable[[int], Runner]) -> Dict[int, Runner]:
    """Train runs that differ only in their seed. Each gives the same bits as when it is trained alone.

    Each seed has a plain mmengine Runner with its own work directory, logs, hooks, optimizer, checkpoints and
    validation. The runs advance one iteration at a time, in turn. The first run to reach a batch loads and preprocesses
    it and computes the teacher's outputs; the others use the same tensors. The datasets, one batch and the teacher are
    in memory once. RNG state, logger and message hub are swapped at every seed switch. The iteration time in a run's
    log covers one iteration of all runs; its ``data_time`` contains the other runs' part.

    A run that stops early leaves the others running. A run that fails, or Ctrl-C, ends all.

    Args:
        seeds (Sequence[int]): Distinct seeds.
        build_runner (Callable[[int], Runner]): Builds the Runner of a seed. The runs' configs may differ in seed, work
            directory and experiment name. They need a :class:`BatchPreprocessor` and a sampler with fixed seeds, and
            ``num_workers=0`` for training.

    Returns:
        dict[int, Runner]: Runners by seed.

    Raises:
        ConfigError: The runs would get other batches than alone: a dataset or sampler draws random numbers, or the
            preprocessor has no seed.
        UserError: The runs differ in their position in the training, or in the seeds of their batches.
        MissingPackageError: greenlet is not installed.
        BaseException: The exception of a run; its attribute ``seed`` names the run.
    """
    group = _SeedGroup(build_runner)
    group.round_robin.run({seed: partial(group.train, seed) for seed in seeds})
    return group.runners


class _SeedGroup:
    """State shared by the runs."""

    def __init__(self, build_runner: Callable[[int], Runner]):
        self.build_runner = build_runner
        self.round_robin = RoundRobin()
        self.runners = {}
        self.datasets = []
        self.teachers = {}
        self.batches = _SharedBatches(self._clear_teacher)

    def train(self, seed: int) -> None:
        """Train one run from start to end."""
        try:
            # Building the runner seeds the RNG, whose state is this run's until its first switch.
            runner = self.runners[seed] = self.build_runner(seed)
            runner.logger.name = f'{runner.logger.name}.seed{seed}'
            self._share(seed, runner)
            runner.train()
        except BaseException as error:
            error.seed = seed
            if hasattr(error, 'add_note'):  # Python 3.11
                error.add_note(f'In the run of seed {seed}.')
            raise

    def _share(self, seed: int, runner: Runner) -> None:
        model = unwrap(runner.model)
        preprocessor = model.data_preprocessor
        if getattr(preprocessor, 'random', None) is None:
            raise ConfigError('Sharing batches needs mmat.BatchPreprocessor with a seed as data_preprocessor, got '
                              f'{type(preprocessor).__name__}. Give --batch-seed.')
        preprocessor.forward = partial(_preprocess_once, preprocessor, preprocessor.forward)
        runner.build_dataloader = partial(self._build_dataloader, runner, count())
        if not isinstance(model, Distiller) or not model.teachers:
            return
        if not self.teachers:
            self.teachers = {name: SharedTeacher(teacher) for name, teacher in model.teachers.items()}
        else:
            first = next(iter(self.runners))
            runner.logger.info(f'Sharing the teacher of seed {first}, whose log has its accuracy.')
            for hook in runner.hooks:
                if isinstance(hook, DistillationHook):
                    hook.validate_teacher = False
        model.teachers = self.teachers

    def _clear_teacher(self) -> None:
        for teacher in self.teachers.values():
            teacher.clear_cache()

    def _switch(self, runner: Runner) -> None:
        if len(self.round_robin) == 1:
            return
        state = get_rng_state()
        self.round_robin.switch()
        set_rng_state(state)
        for instance in (runner.logger, runner.message_hub):
            # mmengine's current instance is the last one.
            type(instance)._instance_dict.move_to_end(instance.instance_name)

    def _build_dataloader(self, runner: Runner, epochs: Iterator[int], config: dict, **kwargs) -> '_Loader':
        """Replace ``Runner.build_dataloader``: share the datasets, and the batches of training."""
        key = {name: config.get(name) for name in ('dataset', 'num_batch_per_epoch')}
        dataset = next((dataset for known, dataset in self.datasets if known == key), None)
        if dataset is None:
            state = get_rng_state()
            loader = Runner.build_dataloader(config, **kwargs)
            if not _equal_states(state, get_rng_state()):
                raise ConfigError(f'Cannot share {type(loader.dataset).__name__}: it or its sampler draws random '
                                  'numbers when built, so it differs between seeds. Train the seeds one by one.')
            self.datasets.append((key, loader.dataset))
        else:
            config = {name: value for name, value in config.items() if name != 'num_batch_per_epoch'}
            loader = Runner.build_dataloader({**config, 'dataset': _NoCopy(dataset)}, **kwargs)
        # A Runner builds the training loader first.
        if isinstance(runner._train_loop, BaseLoop):
            return loader
        if loader.num_workers:
            raise ConfigError(f'Sharing batches needs num_workers=0, got num_workers={loader.num_workers}.')
        return _Loader(loader, lambda iterator: self.batches.read(
            next(epochs), iterator, loader.sampler, partial(self._switch, runner)))


class _NoCopy:
    """Wrap a dataset in a config so that the Runner's deep copy of the config does not copy it."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __deepcopy__(self, memo):
        return self.dataset


class _Loader:
    """A DataLoader whose batches pass through ``read``."""

    def __init__(self, loader, read: Callable[[Iterator], Iterator]):
        self._loader = loader
        self._read = read

    def __iter__(self) -> Iterator:
        # Creating the iterator draws a random number, so every run creates one, even if it is not used.
        return self._read(iter(self._loader))

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str):
        return getattr(self._loader, name)


class _Batch:
    """A batch as loaded (``raw``), and its preprocessing result once the first run has computed it (``prepared``)."""

    def __init__(self, raw: dict):
        self.raw = raw
        self.prepared = None


class SharedBatch(dict):
    """One run's own copy of a loaded batch dict, with a reference to the shared ``batch``."""

    def __init__(self, batch: _Batch):
        super().__init__(batch.raw)
        self.batch = batch


class _SharedBatches:
    """The training batches, each loaded once. Only the current one is kept."""

    def __init__(self, on_release: Callable[[], None]):
        self._on_release = on_release
        self._position = None
        self._batch: Optional[_Batch] = None
        self._iterator = None
        self._order = None

    def read(self, epoch: int, iterator: Iterator, sampler, switch: Callable[[], None]) -> Iterator[SharedBatch]:
        """Yield one run's batches of an epoch. The other runs advance before each."""
        for index in count():
            switch()
            order = getattr(sampler, 'seed', None), getattr(sampler, 'epoch', None)
            if (epoch, index) != self._position:
                if self._position is not None and self._position > (epoch, index):
                    raise UserError('The seeds are at different positions in their training. Resume all from the same '
                                    'epoch.')
                self._load(epoch, index, iterator, order)
            elif order != self._order:
                raise UserError('The seeds read the data in different orders (seed and epoch of the sampler: '
                                f'{self._order} and {order}). Resume only runs started with the same --batch-seed.')
            if self._batch is None:
                return
            yield SharedBatch(self._batch)

    def _load(self, epoch: int, index: int, iterator: Iterator, order: tuple) -> None:
        if self._batch is not None:
            # The loops of the other runs still reference the batch.
            self._batch.prepared = None
            self._batch = None
            self._on_release()
        if index == 0:
            self._iterator, self._order = iterator, order
        state = get_rng_state() if index == 0 else None
        batch = next(self._iterator, None)
        if state is not None and not _equal_states(state, get_rng_state()):
            raise ConfigError('Cannot share batches: loading one draws random numbers, so they differ between seeds. '
                              'Train the seeds one by one, or augment with mmat.BatchPreprocessor alone.')
        self._position, self._batch = (epoch, index), None if batch is None else _Batch(batch)


def _preprocess_once(preprocessor: BatchPreprocessor, forward: Callable, data: dict, training: bool = False) -> dict:
    """Replace a preprocessor's ``forward``: process a shared batch once, and advance the RNG stream for every run."""
    if not training or not isinstance(data, SharedBatch):
        return forward(data, training)
    batch, before = data.batch, preprocessor.random.state_dict()
    if data.keys() != batch.raw.keys() or any(value is not batch.raw[key] for key, value in data.items()):
        raise ConfigError('A hook has changed the content of a batch, which the seeds share. Remove the hook, or train '
                          'the seeds one by one.')
    if batch.prepared is None:
        prepared = forward(data, training)
        batch.prepared = before, prepared, preprocessor.random.state_dict()
    first, prepared, after = batch.prepared
    if not _equal_states(first, before):
        raise UserError("The seeds' batches are augmented with different random numbers. Resume only runs started with "
                        'the same --batch-seed.')
    preprocessor.random.load_state_dict(after)
    return dict(prepared)


class SharedTeacher:
    """A :class:`mmat.models.distillers.Teacher` that computes its outputs for a batch once.

    Args:
        teacher (Teacher): The first run's teacher.
    """

    def __init__(self, teacher):
        self._teacher = teacher
        self.clear_cache()

    def __call__(self, inputs: Tensor, *args, **kwargs):
        """Return the teacher's outputs for ``inputs``, cached while the same tensor is passed."""
        if inputs is not self._inputs:
            self.clear_cache()
            self._outputs = self._teacher(inputs, *args, **kwargs)
            self._inputs = inputs
        return self._outputs

    def clear_cache(self) -> None:
        """Free the last batch and its outputs."""
        self._inputs = self._outputs = None

    def __deepcopy__(self, memo):
        # As Teacher: EMA copies of the student share it.
        return self

    def __getattr__(self, name: str):
        return getattr(self._teacher, name)


def _equal_states(first, second) -> bool:
    """Compare two random states."""
    if first is second:
        return True
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return all(_equal_states(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)):
        return all(map(_equal_states, first, second))
    return first == second
