"""What a distillation run needs around its training loop."""
import time

import torch
import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from mmat.models import Distiller
from mmat.models.targets import class_names
from mmat.registry import HOOKS
from mmat.utils.checkpoint import unwrap
from mmat.utils.rng import preserve_rng_state


@HOOKS.register_module()
class DistillationHook(Hook):
    """Readies the teacher before training, moves the heads' weights along their schedules, and keeps what they learn.
    Does nothing in a run that has no heads.

    Before the first step the teacher is built and its checkpoint loaded, so that a missing one stops the run; then it
    is validated, once, on the validation set under its own normalisation, and its metrics are logged, with a loud
    warning where its accuracy is near chance. The heads' own weights go into the checkpoint under ``at_heads``, beside
    the student's ``state_dict``, and come back on resume; so do the schedules of the losses' weights, under
    ``at_heads_schedules``, and resuming with others is refused. A weight that is a number may be changed on resume.

    Args:
        validate_teacher (bool): Defaults to True.
    """

    priority = 'VERY_LOW'

    def __init__(self, validate_teacher: bool = True):
        self.validate_teacher = validate_teacher

    def before_train(self, runner) -> None:
        distiller = _distiller(runner)
        if distiller is None:
            return
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            _refuse_epochs(distiller)
        self._set_progress(runner, distiller)
        if distiller.reads_input_gradients and any(
                isinstance(module, nn.SyncBatchNorm) for module in distiller.student.modules()):
            raise ValueError('heads that read input gradients cannot train a student with SyncBatchNorm: torch cannot '
                             'differentiate it twice. Leave out sync_bn; BN of each process works')
        if distiller.reads_input_gradients and 'train_step' in vars(runner.model):
            del runner.model.train_step  # the compiled one
            runner.logger.warning('compile has no effect: heads that read input gradients are differentiated twice, '
                                  'which torch cannot do with compiled code')
        teacher = distiller.prepare_teacher()
        if distiller.needs_teacher and self.validate_teacher and runner.val_loop is not None:
            self._validate(runner, teacher)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        distiller = _distiller(runner)
        if distiller is not None:
            self._set_progress(runner, distiller, batch_idx)

    def _set_progress(self, runner, distiller: Distiller, batch_idx: int = 0) -> None:
        iteration = runner.iter
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            # mmengine's own count goes on from what it was with other batches, or from inside an epoch.
            iteration = runner.epoch * len(runner.train_dataloader) + batch_idx
        distiller.set_progress(runner.epoch, iteration, runner.max_epochs, runner.max_iters)

    def _validate(self, runner, teacher) -> None:
        start = time.perf_counter()
        evaluator, dataloader = runner.val_loop.evaluator, runner.val_loop.dataloader
        # Teachers of one precision are measured in that of the training, which is how the student will see them.
        with preserve_rng_state(), torch.no_grad(), runner.optim_wrapper.optim_context(runner.model):
            for batch in dataloader:
                evaluator.process(data_samples=teacher.network.val_step(batch), data_batch=batch)
            metrics = evaluator.evaluate(len(dataloader.dataset))
        text = ', '.join(f'{name} {value:.2f}' for name, value in metrics.items())
        runner.logger.info(f'Teacher {teacher.checkpoint or "as given"} on the validation set: {text} '
                           f'({time.perf_counter() - start:.1f} s)')
        classes = class_names(dataloader.dataset)
        accuracy = metrics.get('accuracy/top1')
        if classes and accuracy is not None:
            chance = 100 / len(classes)
            if accuracy < chance + 0.05 * (100 - chance):
                runner.logger.warning(
                    f'{"!" * 20} THE TEACHER IS NEAR CHANCE: {accuracy:.2f} % top-1 where guessing among '
                    f'{len(classes)} classes gives {chance:.2f} %. Its attention has nothing to teach. Is '
                    f'{teacher.checkpoint} the right checkpoint, and trained on these classes and this normalisation? '
                    f'{"!" * 20}')

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
                raise ValueError("the checkpoint to resume does not hold the weights of this config's transfer heads: "
                                 f'{" ".join(str(error).split())}') from error
            saved, here = checkpoint.get('at_heads_schedules', {}), _schedules(runner, distiller)
            differing = _differences(saved, here)
            if differing:
                raise ValueError("the run to resume was started with other schedules of its heads' weights, or a "
                                 f'length of training that changes them ({"; ".join(differing)}); resume with those, '
                                 'or begin a new run from its weights with load_from')


def _schedules(runner, distiller: Distiller) -> dict:
    """The schedules that are not constant, by head, as far as this run's weights depend on them."""
    # In epochs where there are epochs: other batches, or processes, leave the weight where it was in the training.
    length = runner.max_iters if isinstance(runner.train_loop, IterBasedTrainLoop) else runner.max_epochs
    return {head.name: head.schedule.ended(runner.max_epochs, length)
            for head in distiller.at_heads if not head.schedule.is_constant}


def _differences(saved: dict, here: dict) -> list:
    """In words, option by option."""
    none = dict(type='none')
    differences = []
    for name in sorted({*saved, *here}):
        there, now = saved.get(name, none), here.get(name, none)
        options = ['type'] if there['type'] != now['type'] else there
        differences += [f'{name}.{option}: {there[option]} there, {now[option]} here'
                        for option in options if there[option] != now[option]]
    return differences


def _refuse_epochs(distiller: Distiller) -> None:
    for head in distiller.at_heads:
        if not head.schedule.is_constant and head.schedule.by_epoch:
            raise ValueError(f'the schedule of the weight of {head.name!r} counts epochs, but the training loop counts '
                             'iterations only: give it by_epoch=False')


def _distiller(runner):
    model = unwrap(runner.model)
    return model if isinstance(model, Distiller) else None
