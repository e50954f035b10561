"""Train several seeds of one config in one process, sharing batches and the teacher's forward pass."""
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Callable, Dict, Iterator, Optional, Sequence

import torch
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import Tensor

from mmat.errors import ConfigError, UserError
from mmat.models import Distiller
from mmat.models.data_preprocessor import BatchPreprocessor
from mmat.utils.checkpoint import unwrap
from mmat.utils.rng import get_rng_state, set_rng_state

from .hooks import DistillationHook
from .stepwise import Steps, train_stepwise


def train_together(seeds: Sequence[int], build_runner: Callable[[int], Runner]) -> Dict[int, Runner]:
    """Train runs that differ only in their seed. Each gives the same bits as when it is trained alone.

    Each seed has a plain mmengine Runner with its own work directory, logs, hooks, optimizer, checkpoints and
    validation. The runs advance one iteration at a time, in turn. Each batch is loaded and preprocessed once, and the
    teacher's outputs are computed once. The datasets, one batch and the teacher are in memory once. Each turn restores
    the run's RNG state and makes its logger and message hub the current ones. The iteration time in a run's log covers
    one iteration of all runs; its ``data_time`` contains the other runs' part.

    A run that stops early leaves the others running. A run that fails, or Ctrl-C, ends all.

    Args:
        seeds (Sequence[int]): Distinct seeds.
        build_runner (Callable[[int], Runner]): Builds the Runner of a seed. The runs' configs may differ in seed, work
            directory and experiment name. They need a :class:`BatchPreprocessor` and a sampler with fixed seeds,
            ``num_workers=0`` for training, and one of mmengine's two training loops.

    Returns:
        dict[int, Runner]: Runners by seed.

    Raises:
        ConfigError: The runs would get other batches than alone: a dataset or sampler draws random numbers, or the
            preprocessor has no seed. Or they have a custom training loop.
        UserError: The runs differ in the order or the augmentation of their batches.
        BaseException: The exception of a run; its attribute ``seed`` names the run.
    """
    shared = _Shared()
    runs = [_Run(seed, build_runner, shared) for seed in seeds]
    active, batch = runs, None
    while active := [run for run in active if run.advance(batch)]:
        batch = shared.load_batch(active)
    return {run.seed: run.runner for run in runs}


class _Run:
    """The training of one seed. Between its turns it needs the next batch of ``iterator``."""

    def __init__(self, seed: int, build_runner: Callable[[int], Runner], shared: '_Shared'):
        self.seed = seed
        self.runner: Optional[Runner] = None
        self._steps = self._train(build_runner, shared)

    def _train(self, build_runner: Callable[[int], Runner], shared: '_Shared') -> Steps:
        self.runner = build_runner(self.seed)  # seeds the RNG
        self.runner.logger.name = f'{self.runner.logger.name}.seed{self.seed}'
        shared.attach(self.runner)
        yield from train_stepwise(self.runner)

    def advance(self, batch: Optional[dict]) -> bool:
        """Start, or continue with a batch, None at the end of the data. Return False if the training has ended."""
        if self.runner:
            set_rng_state(self._rng_state)
            for instance in (self.runner.logger, self.runner.message_hub):
                # mmengine's current instance is the last one.
                type(instance)._instance_dict.move_to_end(instance.instance_name)
        try:
            self.iterator = self._steps.send(None if batch is None else SharedBatch(batch))
        except StopIteration:
            return False
        except BaseException as error:
            error.seed = self.seed
            if hasattr(error, 'add_note'):  # Python 3.11
                error.add_note(f'In the run of seed {self.seed}.')
            raise
        self._rng_state = get_rng_state()
        return True


class SharedBatch(dict):
    """One run's copy of the batch dict that all runs use."""


class _Shared:
    """Datasets, teachers and the current training batch of all runs."""

    def __init__(self):
        self._datasets = []  # configs and functions that build them once
        self._teachers = {}
        self._iterator: Optional[Iterator] = None
        self._batch: Optional[dict] = None
        self._preprocessed: Optional[tuple] = None

    def __deepcopy__(self, memo):
        # EMA copies of a model share it.
        return self

    def attach(self, runner: Runner) -> None:
        """Let a run use the shared objects, before its training starts."""
        model = unwrap(runner.model)
        preprocessor = model.data_preprocessor
        if getattr(preprocessor, 'random', None) is None:
            raise ConfigError('Sharing batches needs mmat.BatchPreprocessor with a seed as data_preprocessor, got '
                              f'{type(preprocessor).__name__}. Give --batch-seed.')
        preprocessor.forward = partial(self._preprocess, preprocessor, preprocessor.forward)
        for name in ('_train_dataloader', '_val_dataloader', '_test_dataloader'):
            config = getattr(runner, name)
            if isinstance(config, dict) and isinstance(config.get('dataset'), dict):
                setattr(runner, name, self._share_dataset(config))
        with _refuse_draws('the sampler'):
            loader = runner._train_dataloader = runner.build_dataloader(runner._train_dataloader, seed=runner.seed)
        if loader.num_workers:
            raise ConfigError(f'Sharing batches needs num_workers=0, got num_workers={loader.num_workers}.')
        if not isinstance(model, Distiller) or not model.teachers:
            return
        if not self._teachers:
            self._teachers = {name: SharedTeacher(teacher) for name, teacher in model.teachers.items()}
            self._teacher_seed = runner.seed
        else:
            runner.logger.info(f'Sharing the teacher of seed {self._teacher_seed}, whose log has its accuracy.')
            for hook in runner.hooks:
                if isinstance(hook, DistillationHook):
                    hook.validate_teacher = False
        model.teachers = self._teachers

    def _share_dataset(self, config: dict) -> dict:
        """Return the config of a data loader whose dataset is built once for all runs."""
        dataset = config['dataset']
        build = next((build for known, build in self._datasets if known == dataset), None)
        if build is None:
            build = lru_cache(partial(_build_dataset, dataset))  # a copy of the config keeps its cache
            self._datasets.append((dataset, build))
        return {**config, 'dataset': dict(type=build)}

    def load_batch(self, runs: Sequence[_Run]) -> Optional[dict]:
        """Return the batch that all runs need next, or None at the end of the data."""
        self._batch = self._preprocessed = None
        for teacher in self._teachers.values():
            teacher.clear_cache()
        is_first = self._iterator is None
        if is_first:
            self._iterator = runs[0].iterator
            samplers = [run.runner.train_dataloader.sampler for run in runs]
            orders = {(getattr(sampler, 'seed', None), getattr(sampler, 'epoch', None)): None for sampler in samplers}
            if len(orders) > 1:
                raise UserError('The seeds read the data in different orders (seed and epoch of the sampler: '
                                f'{" and ".join(map(str, orders))}). Resume runs of the same epoch and --batch-seed.')
        with _refuse_draws('loading one') if is_first else nullcontext():
            self._batch = next(self._iterator, None)
        if self._batch is None:
            self._iterator = None
        return self._batch

    def _preprocess(self, preprocessor: BatchPreprocessor, forward: Callable, data: dict, training: bool = False):
        """Replace a preprocessor's ``forward``: process a batch once, and advance the RNG stream of every run."""
        if not training or not isinstance(data, SharedBatch):
            return forward(data, training)
        batch, before = self._batch, preprocessor.random.state_dict()
        if data.keys() != batch.keys() or any(value is not batch[key] for key, value in data.items()):
            raise ConfigError('A hook has changed the content of a batch, which the seeds share. Remove the hook, or '
                              'train the seeds one by one.')
        if self._preprocessed is None:
            self._preprocessed = before, forward(data, training), preprocessor.random.state_dict()
        first, result, after = self._preprocessed
        if not _equal_states(first, before):
            raise UserError("The seeds' batches are augmented with different random numbers. Resume only runs started "
                            'with the same --batch-seed.')
        preprocessor.random.load_state_dict(after)
        return dict(result)


def _build_dataset(config: dict):
    with _refuse_draws(str(config.get('type'))):
        return DATASETS.build(config)


class SharedTeacher:
    """A :class:`mmat.models.distillers.Teacher` that computes its outputs for a batch once."""

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


@contextmanager
def _refuse_draws(name: str):
    """Raise ConfigError if the global random states change."""
    state = get_rng_state()
    yield
    if not _equal_states(state, get_rng_state()):
        raise ConfigError(f'Cannot share batches: {name} draws random numbers, so they differ between seeds. Train the '
                          'seeds one by one, or augment with mmat.BatchPreprocessor alone.')


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
