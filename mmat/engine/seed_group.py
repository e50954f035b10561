"""Several seeds of one config trained in one process, on the same batches and under one pass of the teacher."""
from functools import partial
from itertools import count
from typing import Callable, Dict, Iterator, Optional, Sequence

import torch
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from mmat.models import Distiller
from mmat.models.data_preprocessor import BatchPreprocessor
from mmat.utils.checkpoint import unwrap
from mmat.utils.rng import get_rng_state, set_rng_state

from .hooks import DistillationHook
from .round_robin import Turns


def train_together(seeds: Sequence[int], make: Callable[[int], Runner]) -> Dict[int, Runner]:
    """Train several runs that differ in their seed alone, each to the bit as it trains by itself.

    Each has an unchanged Runner, with its work directory, logs, hooks, optimizer, checkpoints and validation. They take
    turns, an iteration each; whoever comes first loads and preprocesses a batch and asks the teacher about it, the
    others get the same tensors. The datasets, one batch, and the teacher are in memory once. Of what there is once in a
    process, the random states and mmengine's current logger and message hub change hands with the turn. The time that a
    run logs for an iteration is that of a turn of all, of which ``data_time`` is the others' part.

    One that stops early leaves the others running; one that fails, or Ctrl-C, ends all.

    Args:
        seeds (Sequence[int]): Each once.
        make (Callable[[int], Runner]): The Runner of a seed: of one config but for seed, work directory and experiment
            name; with a :class:`BatchPreprocessor` that has a seed, and the sampler's, the same for all; and without
            workers for training.

    Returns:
        dict[int, Runner]: By seed.

    Raises:
        ValueError: A run in which batches would not be what the run gets by itself: datasets that draw random numbers,
            a preprocessor without a seed, or runs that are at different places.
        ImportError: greenlet is not installed.
        BaseException: What one of them raised; ``seed`` of it says whose it is.
    """
    group = _Group(make)
    group.turns.run({seed: partial(group.train, seed) for seed in seeds})
    return group.runners


class _Group:
    """What the runs share."""

    def __init__(self, make: Callable[[int], Runner]):
        self.make = make
        self.turns = Turns()
        self.runners = {}
        self.datasets = []
        self.teacher = None
        self.batches = _Batches(self._forget)

    def train(self, seed: int) -> None:
        """The life of one run."""
        try:
            # From here on `seed` is what random states follow from, until the first turn is handed over.
            runner = self.runners[seed] = self.make(seed)
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
            raise ValueError(f'batches are shared where they are augmented by mmat.BatchPreprocessor with a seed, '
                             f'got {type(preprocessor).__name__}')
        preprocessor.forward = partial(_prepare, preprocessor, preprocessor.forward)
        runner.build_dataloader = partial(self._build_dataloader, runner, count())
        if not isinstance(model, Distiller) or model.teacher is None:
            return
        if self.teacher is None:
            self.teacher = SharedTeacher(model.teacher)
        else:
            runner.logger.info(f'The teacher is that of seed {next(iter(self.runners))}, whose log has its accuracy.')
            for hook in runner.hooks:
                if isinstance(hook, DistillationHook):
                    hook.validate_teacher = False
        model.teacher = self.teacher

    def _forget(self) -> None:
        if self.teacher is not None:
            self.teacher.forget()

    def _hand_over(self, runner: Runner) -> None:
        if self.turns.alone:
            return
        state = get_rng_state()
        self.turns.hand_over()
        set_rng_state(state)
        for instance in (runner.logger, runner.message_hub):
            # The last is the current one.
            type(instance)._instance_dict.move_to_end(instance.instance_name)

    def _build_dataloader(self, runner: Runner, epochs: Iterator[int], config: dict, **kwargs) -> '_Loader':
        """In place of the Runner's: a loader of the shared dataset, which training reads in turns."""
        wanted = {key: config.get(key) for key in ('dataset', 'num_batch_per_epoch')}
        dataset = next((dataset for known, dataset in self.datasets if known == wanted), None)
        if dataset is None:
            state = get_rng_state()
            loader = Runner.build_dataloader(config, **kwargs)
            if not _equal(state, get_rng_state()):
                raise ValueError(f'{type(loader.dataset).__name__} or its sampler draws random numbers while it is '
                                 'built, so that it is another for each seed: train the seeds one by one')
            self.datasets.append((wanted, loader.dataset))
        else:
            config = {key: value for key, value in config.items() if key != 'num_batch_per_epoch'}
            loader = Runner.build_dataloader({**config, 'dataset': _AsItIs(dataset)}, **kwargs)
        # Training's is the first that a Runner builds.
        if isinstance(runner._train_loop, BaseLoop):
            return loader
        if loader.num_workers:
            raise ValueError(f'batches are shared where they are loaded without workers, got num_workers='
                             f'{loader.num_workers}')
        return _Loader(loader, lambda iterator: self.batches.read(
            next(epochs), iterator, loader.sampler, partial(self._hand_over, runner)))


class _AsItIs:
    """A dataset in a config, of which the Runner takes a deep copy."""

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
        # Its iterator draws a random number when it is made, used or not; so do those of the others.
        return self._read(iter(self._loader))

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str):
        return getattr(self._loader, name)


class _Batch:
    """A batch of a loader, and what the preprocessor made of it for whoever came first."""

    def __init__(self, raw: dict):
        self.raw = raw
        self.prepared = None


class SharedBatch(dict):
    """What one run gets of a batch: the loader's dict, its own, and where the others look too."""

    def __init__(self, batch: _Batch):
        super().__init__(batch.raw)
        self.batch = batch


class _Batches:
    """The batches of training, each loaded once."""

    def __init__(self, forget: Callable[[], None]):
        self._forget = forget
        self._place = None
        self._batch: Optional[_Batch] = None
        self._iterator = None
        self._order = None

    def read(self, epoch: int, iterator: Iterator, sampler, hand_over: Callable[[], None]) -> Iterator[SharedBatch]:
        """One run's batches of an epoch. The others have their turns before each."""
        for position in count():
            hand_over()
            order = getattr(sampler, 'seed', None), getattr(sampler, 'epoch', None)
            if (epoch, position) != self._place:
                if self._place is not None and self._place > (epoch, position):
                    raise ValueError('the seeds are at different places of their training')
                self._load(epoch, position, iterator, order)
            elif order != self._order:
                raise ValueError(f'the seeds go through the data in different orders (seed and epoch of the sampler: '
                                 f'{self._order} and {order}): were they begun with other --batch-seed?')
            if self._batch is None:
                return
            yield SharedBatch(self._batch)

    def _load(self, epoch: int, position: int, iterator: Iterator, order: tuple) -> None:
        if self._batch is not None:
            # The loops of the others still hold on to it.
            self._batch.prepared = None
            self._batch = None
            self._forget()
        if position == 0:
            self._iterator, self._order = iterator, order
        state = get_rng_state() if position == 0 else None
        batch = next(self._iterator, None)
        if state is not None and not _equal(state, get_rng_state()):
            raise ValueError('loading a batch drew random numbers, so that it is another for each seed: train the '
                             'seeds one by one, or augment with mmat.BatchPreprocessor alone')
        self._place, self._batch = (epoch, position), None if batch is None else _Batch(batch)


def _prepare(preprocessor: BatchPreprocessor, forward: Callable, data: dict, training: bool = False) -> dict:
    """A preprocessor's ``forward`` that prepares a shared batch once, and draws as if it had done it each time."""
    if not training or not isinstance(data, SharedBatch):
        return forward(data, training)
    batch, before = data.batch, preprocessor.random.state_dict()
    if data.keys() != batch.raw.keys() or any(value is not batch.raw[key] for key, value in data.items()):
        raise ValueError('a hook has put something else into a batch, which the seeds share: train them one by one')
    if batch.prepared is None:
        prepared = forward(data, training)
        batch.prepared = before, prepared, preprocessor.random.state_dict()
    first, prepared, after = batch.prepared
    if not _equal(first, before):
        raise ValueError("the seeds' batches are augmented by different random numbers: were they begun with other "
                         '--batch-seed?')
    preprocessor.random.load_state_dict(after)
    return dict(prepared)


class SharedTeacher:
    """A :class:`mmat.models.distillers.Teacher` that sees each batch once; all else is as it was.

    Args:
        teacher (Teacher): Of the run that comes first.
    """

    def __init__(self, teacher):
        self._teacher = teacher
        self.forget()

    def __call__(self, inputs: Tensor, *args, **kwargs):
        """What the teacher gives for ``inputs``, asked for the first time that they come."""
        if inputs is not self._inputs:
            self.forget()
            self._outputs = self._teacher(inputs, *args, **kwargs)
            self._inputs = inputs
        return self._outputs

    def forget(self) -> None:
        """Let go of the last batch."""
        self._inputs = self._outputs = None

    def __deepcopy__(self, memo):
        # As a Teacher: a copy of the student under EMA has the same.
        return self

    def __getattr__(self, name: str):
        return getattr(self._teacher, name)


def _equal(first, second) -> bool:
    """Whether two random states are the same."""
    if first is second:
        return True
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)):
        return all(map(_equal, first, second))
    return first == second
