"""Run mmengine's training one batch at a time."""
from contextlib import suppress
from logging import WARNING
from typing import Generator, Iterator, Optional

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmat.errors import ConfigError

# Yields the iterator of the current pass over the data. Receives its next batch, or None at its end.
Steps = Generator[Iterator, Optional[dict], None]


def train_stepwise(runner: Runner) -> Steps:
    """Do as ``runner.train()``, but let the caller load the batches.

    The generator stops wherever the run needs a batch and yields the run's iterator over the data. The caller sends the
    iterator's next batch, or an equal one, or None if there is no further batch.

    Args:
        runner (Runner): Its loop is mmengine's EpochBasedTrainLoop or IterBasedTrainLoop, and its model not compiled.

    Raises:
        ConfigError: The runner has another loop.
    """
    loop = runner._train_loop = runner.build_train_loop(runner._train_loop)
    steps = {EpochBasedTrainLoop: _run_epochs, IterBasedTrainLoop: _run_iterations}.get(type(loop))
    if steps is None:
        raise ConfigError('Training several seeds in one process needs EpochBasedTrainLoop or IterBasedTrainLoop, got '
                          f'{type(loop).__name__}. Train the seeds one by one.')
    # Runner.train prepares the run, starts the loop, and calls the hooks' after_run.
    loop.run = _stop_before_loop
    with suppress(_LoopReached):
        runner.train()
    del loop.run
    yield from steps(loop)
    runner.call_hook('after_run')


class _LoopReached(Exception):
    """Stops ``Runner.train`` at its loop."""


def _stop_before_loop():
    raise _LoopReached


def _run_epochs(loop: EpochBasedTrainLoop) -> Steps:
    """Do as ``EpochBasedTrainLoop.run``."""
    runner = loop.runner
    runner.call_hook('before_train')
    while loop.epoch < loop.max_epochs and not loop.stop_training:
        runner.call_hook('before_train_epoch')
        runner.model.train()
        # Creating the iterator draws a random number, so it is created even if its batches are not used.
        iterator, index = iter(loop.dataloader), 0
        while (batch := (yield iterator)) is not None:
            loop.run_iter(index, batch)
            index += 1
        runner.call_hook('after_train_epoch')
        loop._epoch += 1
        _validate_if_due(loop, loop.epoch, loop.max_epochs)
    runner.call_hook('after_train')


def _run_iterations(loop: IterBasedTrainLoop) -> Steps:
    """Do as ``IterBasedTrainLoop.run``."""
    runner = loop.runner
    runner.call_hook('before_train')
    runner.call_hook('before_train_epoch')
    if loop.iter > 0:
        print_log(f'Skipping the {loop.iter} batches that the run to resume has used.', 'current', WARNING)
    for _ in range(loop.iter):
        yield from _next_batch(loop)
    while loop.iter < loop.max_iters and not loop.stop_training:
        runner.model.train()
        batch = yield from _next_batch(loop)
        loop.run_iter(batch)
        _validate_if_due(loop, loop.iter, loop.max_iters)
    runner.call_hook('after_train_epoch')
    runner.call_hook('after_train')


def _next_batch(loop: IterBasedTrainLoop) -> Generator[Iterator, Optional[dict], dict]:
    """Do as ``next(loop.dataloader_iterator)``, which restarts at the end of the data."""
    endless = loop.dataloader_iterator
    batch = yield endless._iterator
    if batch is None:
        endless._epoch += 1
        sampler = getattr(loop.dataloader.batch_sampler, 'sampler', None)
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(endless._epoch)
        endless._iterator = iter(loop.dataloader)
        batch = yield endless._iterator
    return batch


def _validate_if_due(loop, done: int, planned: int) -> None:
    loop._decide_current_val_interval()
    is_due = done >= loop.val_begin and (done % loop.val_interval == 0 or done == planned)
    if is_due and loop.runner.val_loop is not None:
        loop.runner.val_loop.run()
