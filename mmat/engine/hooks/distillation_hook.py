"""Hook of distillation runs: teacher, weight schedules, summary and the heads' checkpoints."""
from typing import Optional

import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from mmat.errors import CheckpointError, ConfigError
from mmat.models import Distiller
from mmat.registry import HOOKS
from mmat.utils.checkpoint import unwrap

from ..loss_balance import LossBalance
from ..summary import summarize_run
from ..teacher_validation import validate_teacher


@HOOKS.register_module()
class DistillationHook(Hook):
    """Prepare the teacher, log a summary, update scheduled weights, and save the parameters of heads.

    The hook does nothing in a run without transfer heads. Before the first step it

    - builds the teacher and loads its checkpoint, so that a missing one stops the run;
    - validates the teacher once on the validation set, with the images that training gives it, logs its metrics, and
      warns if its accuracy is near chance;
    - logs a summary: student, teacher, data, setting, and the compared layers with their shapes. Pairs of unequal size
      are a warning.

    If the weighted loss of a head exceeds ten times the task's loss, averaged over an epoch, the log has a warning.

    Checkpoints contain the parameters of heads as ``at_heads``, beside the student's ``state_dict``, and the schedules
    of weights as ``at_heads_schedules``. Resuming restores the parameters and refuses other schedules. A constant
    weight may be changed on resume.

    Args:
        validate_teacher (bool): Defaults to True.

    Raises:
        ConfigError: A schedule counts epochs in a training without epochs, or a head that reads input gradients trains
            a student with SyncBatchNorm.
        CheckpointError: The checkpoint to resume has other heads or schedules.
    """

    priority = 'VERY_LOW'

    def __init__(self, validate_teacher: bool = True):
        self.validate_teacher = validate_teacher
        self._teacher_metrics = {}
        self._balance = None
        self._is_summarized = False

    def before_train(self, runner) -> None:
        distiller = _distiller(runner)
        if distiller is None:
            return
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            _refuse_epochs(distiller)
        self._set_progress(runner, distiller)
        if distiller.reads_input_gradients and any(
                isinstance(module, nn.SyncBatchNorm) for module in distiller.student.modules()):
            raise ConfigError('Heads that read input gradients cannot train a student with SyncBatchNorm: torch '
                              'cannot differentiate it twice. Remove sync_bn.')
        if distiller.reads_input_gradients and 'train_step' in vars(runner.model):
            del runner.model.train_step  # the compiled step
            runner.logger.warning('Ignoring compile: heads that read input gradients differentiate twice, which torch '
                                  'cannot do with compiled code.')
        teachers = distiller.prepare_teachers()
        if self.validate_teacher and runner.val_loop is not None:
            self._teacher_metrics = {name: validate_teacher(runner, distiller, teacher)
                                     for name, teacher in teachers.items()}
        dataset = runner.train_dataloader.dataset
        interval = len(runner.train_dataloader) if hasattr(dataset, '__len__') else 1000
        self._balance = LossBalance([head.name for head in distiller.at_heads], interval)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        distiller = _distiller(runner)
        if distiller is not None:
            self._set_progress(runner, distiller, batch_idx)
            if not self._is_summarized:
                self._is_summarized = True
                self._summarize(runner, distiller, data_batch)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: Optional[dict] = None) -> None:
        if _distiller(runner) is not None and isinstance(outputs, dict):
            for line in self._balance.update(outputs):
                runner.logger.warning(line)

    def _summarize(self, runner, distiller: Distiller, data_batch: Optional[dict]) -> None:
        if not isinstance(data_batch, dict) or 'inputs' not in data_batch:
            return
        size = tuple(data_batch['inputs'][0].shape[-2:])
        lines, warnings = summarize_run(runner, distiller, size, self._teacher_metrics)
        for line in lines:
            runner.logger.info(line)
        for line in warnings:
            runner.logger.warning(line)

    def _set_progress(self, runner, distiller: Distiller, batch_idx: int = 0) -> None:
        iteration = runner.iter
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            # mmengine's own count is wrong after resuming with other batches, or from inside an epoch.
            iteration = runner.epoch * len(runner.train_dataloader) + batch_idx
        distiller.set_progress(runner.epoch, iteration, runner.max_epochs, runner.max_iters)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        distiller = _distiller(runner)
        state = distiller.at_heads.state_dict() if distiller else {}
        if state:
            checkpoint['at_heads'] = {key: value.cpu() for key, value in state.items()}
        schedules = _schedules(runner, distiller) if distiller else {}
        if schedules:
            checkpoint['at_heads_schedules'] = schedules

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        distiller = _distiller(runner)
        if distiller is not None and runner._resume:
            try:
                distiller.at_heads.load_state_dict(checkpoint.get('at_heads', {}))
            except RuntimeError as error:
                raise CheckpointError("The checkpoint to resume does not fit this config's transfer heads: "
                                      f'{" ".join(str(error).split())}') from error
            saved, here = checkpoint.get('at_heads_schedules', {}), _schedules(runner, distiller)
            differing = _differences(saved, here)
            if differing:
                raise CheckpointError('The run to resume has other weight schedules, or a length that changes them: '
                                      f'{"; ".join(differing)}. Resume with the same schedules, or start a new run '
                                      'from its weights with load_from.')


def _schedules(runner, distiller: Distiller) -> dict:
    """Return the options of schedules that are not constant, by head."""
    # In epochs if there are epochs, so that another batch size or number of processes does not matter.
    length = runner.max_iters if isinstance(runner.train_loop, IterBasedTrainLoop) else runner.max_epochs
    return {head.name: head.schedule.ended(runner.max_epochs, length)
            for head in distiller.at_heads if not head.schedule.is_constant}


def _differences(saved: dict, here: dict) -> list:
    """Describe the differences between saved and current schedules, option by option."""
    none = dict(type='none')
    differences = []
    for name in sorted({*saved, *here}):
        there, now = saved.get(name, none), here.get(name, none)
        options = ['type'] if there['type'] != now['type'] else there
        differences += [f'{name}.{option} was {there[option]}, is {now[option]}'
                        for option in options if there[option] != now[option]]
    return differences


def _refuse_epochs(distiller: Distiller) -> None:
    for head in distiller.at_heads:
        if not head.schedule.is_constant and head.schedule.by_epoch:
            raise ConfigError(f'The weight schedule of {head.name!r} counts epochs, but the training loop only counts '
                              'iterations. Set by_epoch=False in the schedule.')


def _distiller(runner):
    model = unwrap(runner.model)
    return model if isinstance(model, Distiller) else None
