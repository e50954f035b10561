"""Checkpoints of plain values that resume a run bit by bit."""
from collections import OrderedDict
from typing import List, Optional

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import EpochBasedTrainLoop

from mmat.errors import CheckpointError, ConfigError
from mmat.registry import HOOKS
from mmat.utils.checkpoint import strip_module_prefix, unwrap
from mmat.utils.rng import get_rng_state, set_rng_state

from ..resume_checks import compare_settings


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's CheckpointHook with plain values, atomic writes and exact resuming.

    - Plain values: checkpoints hold tensors and plain values only, so ``torch.load`` reads them with its default
      ``weights_only=True``. The history of logged scalars stays in the logs; in mmengine's checkpoints it grows with
      every iteration and blocks ``weights_only``.
    - Atomic writes: a checkpoint is written under a temporary name and renamed when complete.
    - Exact resuming: checkpoints hold the random states of Python, NumPy and torch of every process, the seed and
      position of the data order, and the preprocessor's random stream if it has one. A run resumed at the end of an
      epoch gives the same bits as an uninterrupted one. For this, random states are restored after validation.

    ``load_from`` is refused if fewer than half of the model's weights match, resuming if any does not.

    Resuming with another ``param_scheduler``, optimizer or seed is refused, because mmengine would silently continue
    with the saved one. More epochs are allowed if the schedule does not depend on their number. Every other setting
    that changes the run, such as the batch size, is logged as a warning.

    Args:
        args, kwargs: Arguments of mmengine's CheckpointHook. Set ``max_keep_ckpts`` to at least 2: the oldest
            checkpoint is deleted before the newest is written.

    Raises:
        CheckpointError: When training starts, the weights or the ``param_scheduler`` are refused.
        ConfigError: When training starts, another optimizer or seed is refused.
    """

    def __init__(self, *args, backend_args: Optional[dict] = None, **kwargs):
        super().__init__(*args, backend_args=backend_args or dict(backend='mmat.atomic'), **kwargs)
        self._rng_states = []
        self._resumed = None
        self._missed_steps = []
        self._changes = []
        self._before_val = None

    # Saving

    def _save_checkpoint_with_step(self, runner, step, meta):
        # Runs in every process; before_save_checkpoint runs in the main one only.
        self._rng_states = all_gather_object(get_rng_state())
        super()._save_checkpoint_with_step(runner, step, meta)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['rng_states'] = self._rng_states
        stream = _random_stream(runner)
        if stream is not None:
            checkpoint['batch_rng_state'] = stream.state_dict()
        checkpoint['data_order'] = dict(seed=_sampler_seed(runner), iter_in_epoch=_iter_in_epoch(runner, checkpoint))
        info = {key: value.item() if isinstance(value, np.generic) else value
                for key, value in checkpoint['message_hub']['runtime_info'].items()}
        info = {key: value for key, value in info.items() if _is_plain(value)}
        checkpoint['message_hub'] = dict(
            log_scalars=OrderedDict(), runtime_info=OrderedDict(info), resumed_keys={key: True for key in info})

    # Resuming

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        _check_weights(runner, checkpoint)
        if not runner._resume:
            return
        self._resumed = checkpoint
        # mmengine would run it as Python code. mmat's own checkpoints have none.
        checkpoint['meta'].pop('config', None)
        self._missed_steps = _extend_schedulers(runner.param_schedulers or [], checkpoint.get('param_schedulers', []))
        differences = compare_settings(runner, checkpoint)
        if differences is None:
            runner.logger.info('The checkpoint to resume has no config, so its settings are not compared.')
            return
        restored, self._changes = differences
        if restored:
            raise ConfigError('Resuming restores the optimizer and the random states of the checkpoint, so these '
                              f'settings would have no effect: {"; ".join(restored)}. Resume with the same settings, '
                              'or start a new run from its weights with load_from.')

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if self._resumed is None:
            return
        # Not earlier: other hooks may refuse the checkpoint.
        for change in self._changes:
            runner.logger.warning(f'Resuming with another setting: {change} in the checkpoint.')
        for scheduler, count in self._missed_steps:
            for _ in range(count):
                scheduler.step()
        order = self._resumed.get('data_order', {})
        if order.get('seed') is not None:
            # Without a seed in the config the sampler has drawn one before the checkpoint was read.
            runner.train_dataloader.sampler.seed = order['seed']
        if order.get('iter_in_epoch'):
            runner.logger.warning(f'The checkpoint was saved {order["iter_in_epoch"]} iterations into epoch '
                                  f'{runner.epoch + 1}. That epoch restarts from its first batch.')

    def before_train_epoch(self, runner) -> None:
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._restore_rng_state(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        # Iteration based loops skip the batches already used after before_train_epoch, which draws random numbers.
        self._restore_rng_state(runner)

    def _restore_rng_state(self, runner) -> None:
        if self._resumed is None:
            return
        states, batch_state = self._resumed.get('rng_states', []), self._resumed.get('batch_rng_state')
        self._resumed = None
        stream = _random_stream(runner)
        if stream is not None and batch_state is not None:
            stream.load_state_dict(batch_state)
        elif stream is not None or batch_state is not None:
            runner.logger.warning('Only one of this run and the resumed run uses a batch seed (--batch-seed). Batches '
                                  'are augmented differently from an uninterrupted run.')
        if get_rank() < len(states):
            set_rng_state(states[get_rank()])
        else:
            runner.logger.warning(f'The checkpoint holds random states of {len(states)} processes, none for process '
                                  f'{get_rank()}. Its random numbers differ from an uninterrupted run.')

    # Validation

    def before_val_epoch(self, runner) -> None:
        self._before_val = get_rng_state()

    def after_val_epoch(self, runner, metrics=None) -> None:
        set_rng_state(self._before_val)
        if self.save_best is not None:
            self._rng_states = all_gather_object(get_rng_state())
        super().after_val_epoch(runner, metrics)


def _check_weights(runner, checkpoint: dict) -> None:
    """Refuse weights of another network. mmengine only warns, however few match."""
    model = unwrap(runner.model)
    own, state = model.state_dict(), strip_module_prefix(checkpoint.get('state_dict', checkpoint))
    unfit = [key for key, value in own.items() if getattr(state.get(key), 'shape', None) != value.shape]
    other = [*unfit, *(state.keys() - own.keys())]
    if other if runner._resume else 2 * len(unfit) > len(own):
        source = 'The checkpoint to resume' if runner._resume else f'load_from {runner._load_from!r}'
        raise CheckpointError(f'{source} holds weights of another network: {len(own) - len(unfit)} of {len(own)} '
                              f'weights of {type(model).__name__} match in name and shape. Different: '
                              f'{", ".join(other[:3])}{", ..." * (len(other) > 3)}')


# Entries of a scheduler's state that change during a run. The others come from the config.
_PROGRESS = {'base_values', 'last_step', '_global_step', '_last_value'}


def _extend_schedulers(schedulers: list, saved_states: List[dict]) -> List[tuple]:
    """Refuse schedulers that differ from the saved ones, except in their end, which moves with ``max_epochs``.

    Returns:
        list[tuple]: Schedulers with a new end, and the number of steps that each skipped past its saved end.
    """
    here = [scheduler.state_dict() for scheduler in schedulers]
    differing = [] if len(here) == len(saved_states) else ['the number of schedulers']
    for state, saved in zip(here, saved_states):
        differing += [f'{key}: {saved.get(key)} in the checkpoint, {state.get(key)} in the config'
                      for key in sorted({*state, *saved} - _PROGRESS - {'end'}) if state.get(key) != saved.get(key)]
    if differing:
        raise CheckpointError('The run to resume has another param_scheduler, or a length that changes it: '
                              f'{"; ".join(differing)}. Resume with the same schedule, or start a new run from its '
                              'weights with load_from.')
    missed = []
    for scheduler, saved in zip(schedulers, saved_states):
        if saved['end'] != scheduler.end:
            count = max(0, saved['_global_step'] + 1 - saved['end'])
            saved.update(end=scheduler.end, _global_step=saved['_global_step'] - count)
            missed.append((scheduler, count))
    return missed


def _random_stream(runner):
    """Return the preprocessor's random stream, the same in every process, or None if it uses the global state."""
    return getattr(getattr(unwrap(runner.model), 'data_preprocessor', None), 'random', None)


def _sampler_seed(runner) -> Optional[int]:
    seed = getattr(runner.train_dataloader.sampler, 'seed', None)
    return None if seed is None else int(seed)


def _iter_in_epoch(runner, checkpoint: dict) -> int:
    """Return the iterations done of the epoch that a resumed run starts with; 0 at the end of an epoch."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return 0
    return checkpoint['meta']['iter'] - checkpoint['meta']['epoch'] * len(runner.train_dataloader)


def _is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, torch.Tensor)
