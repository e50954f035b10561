"""Checkpoints that hold plain values, and from which a run goes on to the bit."""
from collections import OrderedDict
from typing import List, Optional

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import EpochBasedTrainLoop

from mmat.registry import HOOKS
from mmat.utils.checkpoint import strip_module_prefix, unwrap
from mmat.utils.rng import get_rng_state, set_rng_state


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's CheckpointHook, with checkpoints that are clean, whole and exact to resume.

    - Clean: tensors and plain values only, so ``torch.load(weights_only=True)``, the default, reads them. The history
      of logged scalars, which makes mmengine's unreadable and lets them grow with every iteration, stays in the logs.
    - Whole: written beside their place and moved there when complete.
    - Exact: they hold the random states of Python, NumPy and torch of every process, the seed and place of the data
      order, and the preprocessor's random stream, where it has one of its own. A run resumed at the end of an epoch
      gives the bits of one never stopped. For that, validation leaves the random states as it found them.

    Weights to begin with (``load_from``) are refused where fewer than half of the model's are among them. Resuming with
    another ``param_scheduler`` is refused: mmengine would silently go on with the saved one. More epochs are taken
    where the schedule does not depend on their number.

    Arguments as mmengine's. ``max_keep_ckpts`` should be at least 2: the oldest goes before the newest is written.
    """

    def __init__(self, *args, backend_args: Optional[dict] = None, **kwargs):
        super().__init__(*args, backend_args=backend_args or dict(backend='mmat.atomic'), **kwargs)
        self._rng_states = []
        self._resumed = None
        self._missed_steps = []
        self._before_val = None

    # Saving

    def _save_checkpoint_with_step(self, runner, step, meta):
        # Here every process passes; before_save_checkpoint sees the main one only.
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
        if not runner._resume:
            _refuse_foreign_weights(runner, checkpoint)
            return
        self._resumed = checkpoint
        # mmengine would run it as Python; it is only there in checkpoints that are not ours.
        checkpoint['meta'].pop('config', None)
        self._missed_steps = _extend_schedulers(runner.param_schedulers or [], checkpoint.get('param_schedulers', []))

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if self._resumed is None:
            return
        for scheduler, count in self._missed_steps:
            for _ in range(count):
                scheduler.step()
        order = self._resumed.get('data_order', {})
        if order.get('seed') is not None:
            # Without a seed in the config the sampler drew one of its own before the checkpoint was read.
            runner.train_dataloader.sampler.seed = order['seed']
        if order.get('iter_in_epoch'):
            runner.logger.warning(f'The checkpoint was saved {order["iter_in_epoch"]} iterations into epoch '
                                  f'{runner.epoch + 1}: that epoch starts again from its first batch.')

    def before_train_epoch(self, runner) -> None:
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._restore_rng_state(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        # Iteration based loops skip what was seen after before_train_epoch, and draw for it.
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
            runner.logger.warning('This run and the one to resume do not both have a seed of their own for their '
                                  'batches (--batch-seed): these are augmented otherwise than they would have been.')
        if get_rank() < len(states):
            set_rng_state(states[get_rank()])
        else:
            runner.logger.warning(f'The checkpoint has the random states of {len(states)} processes, none for process '
                                  f'{get_rank()}: random numbers go on from another place than they would have.')

    # Validation

    def before_val_epoch(self, runner) -> None:
        self._before_val = get_rng_state()

    def after_val_epoch(self, runner, metrics=None) -> None:
        set_rng_state(self._before_val)
        if self.save_best is not None:
            self._rng_states = all_gather_object(get_rng_state())
        super().after_val_epoch(runner, metrics)


def _refuse_foreign_weights(runner, checkpoint: dict) -> None:
    """Stop where most of the model would begin untrained: mmengine only warns, however little of ``load_from`` fits."""
    model = unwrap(runner.model)
    own, state = model.state_dict(), strip_module_prefix(checkpoint.get('state_dict', checkpoint))
    unfit = [key for key, value in own.items() if getattr(state.get(key), 'shape', None) != value.shape]
    if 2 * len(unfit) > len(own):
        raise ValueError(f'load_from {runner._load_from!r} is of another network: of {len(own)} weights of '
                         f'{type(model).__name__} it has only {len(own) - len(unfit)} in the same shape; it lacks '
                         f'{", ".join(unfit[:3])}, ...')


# What a scheduler's state holds of the run so far; the rest comes from the config.
_PROGRESS = {'base_values', 'last_step', '_global_step', '_last_value'}


def _extend_schedulers(schedulers: list, saved_states: List[dict]) -> List[tuple]:
    """Refuse schedules that differ from the saved ones, but for their end, which moves with ``max_epochs``.

    Returns:
        list[tuple]: Schedulers, and the steps that each was past its saved end and so did not take.
    """
    here = [scheduler.state_dict() for scheduler in schedulers]
    differing = [] if len(here) == len(saved_states) else ['the number of schedulers']
    for state, saved in zip(here, saved_states):
        differing += [f'{key}: {saved.get(key)} there, {state.get(key)} here'
                      for key in sorted({*state, *saved} - _PROGRESS - {'end'}) if state.get(key) != saved.get(key)]
    if differing:
        raise ValueError('the run to resume was started with another param_scheduler, or a length of training that '
                         f'changes it ({"; ".join(differing)}), and its checkpoint would bring that back. Resume with '
                         'the one it was started with, or begin a new run from its weights with load_from')
    missed = []
    for scheduler, saved in zip(schedulers, saved_states):
        if saved['end'] != scheduler.end:
            count = max(0, saved['_global_step'] + 1 - saved['end'])
            saved.update(end=scheduler.end, _global_step=saved['_global_step'] - count)
            missed.append((scheduler, count))
    return missed


def _random_stream(runner):
    """What the preprocessor draws from, where that is not the global random state; the same in every process."""
    return getattr(getattr(unwrap(runner.model), 'data_preprocessor', None), 'random', None)


def _sampler_seed(runner) -> Optional[int]:
    seed = getattr(runner.train_dataloader.sampler, 'seed', None)
    return None if seed is None else int(seed)


def _iter_in_epoch(runner, checkpoint: dict) -> int:
    """Iterations done of the epoch that a resumed run would start with; 0 at an epoch's boundary."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return 0
    return checkpoint['meta']['iter'] - checkpoint['meta']['epoch'] * len(runner.train_dataloader)


def _is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, torch.Tensor)
