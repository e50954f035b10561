"""Validate the teacher of a distillation run as training uses it."""
import time

import torch

from mmat.models import Distiller
from mmat.models.at_heads.base import GRADIENTS
from mmat.models.distillers import Teacher
from mmat.models.distillers.readers import wants_of
from mmat.models.targets import class_names, find_classifier
from mmat.utils.rng import preserve_rng_state


def validate_teacher(runner, distiller: Distiller, teacher: Teacher) -> dict:
    """Evaluate a teacher on the validation set, log its metrics, and warn if its accuracy is near chance.

    Images pass through the student's data preprocessor and are converted for the teacher, as in training, and are
    computed in the precision of the training. RNG states are preserved.

    Args:
        runner (Runner): With a validation loop.
        distiller (Distiller): Its model.
        teacher (Teacher): One of its teachers, prepared.

    Returns:
        dict: Name -> metric; empty if the teacher has other classes and no head reads its predictions.

    Raises:
        LayerError: The teacher does not accept images of this size.
    """
    classes, classifier = class_names(runner.val_loop.dataloader.dataset), find_classifier(teacher.network)
    count = getattr(classifier, 'num_classes', None)
    wants = wants_of(distiller.readers_of(teacher.name), 'teacher')
    if classes and count not in (None, len(classes)) and {'logits', *GRADIENTS}.isdisjoint(wants):
        runner.logger.info(f'Teacher {teacher.checkpoint or "as given"} has {count} classes, the validation set '
                           f'{len(classes)}: its accuracy is not measured.')
        return {}
    start = time.perf_counter()
    evaluator, dataloader = runner.val_loop.evaluator, runner.val_loop.dataloader
    is_checked = False
    with preserve_rng_state(), torch.no_grad(), runner.optim_wrapper.optim_context(runner.model):
        for batch in dataloader:
            if not is_checked:
                teacher.check_input_size(tuple(batch['inputs'][0].shape[-2:]))
                is_checked = True
            evaluator.process(data_samples=teacher.predict(batch, distiller.data_preprocessor), data_batch=batch)
        metrics = evaluator.evaluate(len(dataloader.dataset))
    text = ', '.join(f'{name} {value:.2f}' for name, value in metrics.items())
    name = '' if teacher.name == 'teacher' else f'{teacher.name}: '
    runner.logger.info(f'Teacher {name}{teacher.checkpoint or "as given"} on the validation set: {text} '
                       f'({time.perf_counter() - start:.1f} s)')
    accuracy = metrics.get('accuracy/top1')
    if classes and accuracy is not None:
        chance = 100 / len(classes)
        if accuracy < chance + 0.05 * (100 - chance):
            runner.logger.warning(
                f'{"!" * 20} THE TEACHER IS NEAR CHANCE: {name}{accuracy:.2f} % top-1; random guessing among '
                f'{len(classes)} classes gives {chance:.2f} %. Check its checkpoint ({teacher.checkpoint}), the order '
                f'of its classes, its normalisation and its channel order. {"!" * 20}')
    return metrics
