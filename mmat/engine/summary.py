"""Summary of a distillation run for the log."""
from typing import Dict, List, Optional, Tuple

import torch.nn as nn
from mmengine.runner import IterBasedTrainLoop
from torch.optim import Optimizer

from mmat.errors import LayerError
from mmat.models import Distiller
from mmat.models.build_checks import output_shapes
from mmat.models.distillers import Teacher
from mmat.models.distillers.readers import layers_of

# Lines for heads and pairs; four more describe student, teacher, data and setting.
_HEAD_LINES = 4
_PRECISIONS = dict(OptimWrapper='fp32', AutocastOptimWrapper='bf16 autocast', AmpOptimWrapper='mixed precision')


def summarize_run(runner, distiller: Distiller, size: Tuple[int, int],
                  teacher_metrics: Optional[Dict[str, dict]] = None) -> Tuple[List[str], List[str]]:
    """Describe a distillation run.

    Args:
        runner (Runner): Ready to train.
        distiller (Distiller): Its model, with the teachers prepared.
        size (tuple): Height and width of the training images.
        teacher_metrics (dict, optional): Name of a teacher -> its metrics on the validation set. Defaults to None.

    Returns:
        tuple: At most 8 lines, and a warning for each pair of layers with outputs of unequal height or width.
    """
    teachers = distiller.prepare_teachers()
    teacher_shapes = {}
    for name, teacher in teachers.items():
        for head in distiller.readers_of(name):
            teacher_shapes[head] = teacher.output_shapes(layers_of([head], 'teacher'), size)
    try:
        student_shapes = output_shapes(distiller.student, layers_of(distiller.at_heads, 'student'), 'student', size)
    except LayerError as error:  # a layer may run in training only
        return [], [f'Cannot summarize the run: {error}']
    heads, warnings = [], []
    for head in distiller.at_heads:
        pairs = []
        for student_path, teacher_path in zip(head.student_paths, head.teacher_paths):
            student_shape, teacher_shape = student_shapes[student_path][1:], teacher_shapes[head][teacher_path][1:]
            pair = f'{student_path} {tuple(student_shape)} <- {teacher_path} {tuple(teacher_shape)}'
            pairs.append(pair)
            if student_shape[-2:] != teacher_shape[-2:]:
                warnings.append(f'{head.name}: unequal sizes in the pair {pair}. Check that the stages correspond.')
        heads.append((f'{head.name}, weight {_weight(head)}', pairs))
    student_line = f'Student: {_describe(distiller.student)}'
    teacher_line = _teachers(teachers, teacher_metrics or {}, distiller.data_preprocessor)
    return [student_line, teacher_line, _data(runner, size), _setting(runner), *_head_lines(heads)], warnings


def _teachers(teachers: Dict[str, Teacher], metrics: Dict[str, dict], preprocessor: nn.Module) -> str:
    lines = []
    for name, teacher in teachers.items():
        label = '' if name == 'teacher' else f'{name}: '
        values = ''.join(f', {metric} {value:.2f}' for metric, value in metrics.get(name, {}).items())
        channels = ', channels swapped' if teacher.adapter(preprocessor).swaps_channels else ''
        size = ', images resized to {} x {}'.format(*teacher.input_size) if teacher.input_size else ''
        lines.append(f'{label}{_describe(teacher.network)}{values}{channels}{size}')
    return f'Teacher{"s" * (len(lines) > 1)}: {"; ".join(lines) or "none"}'


def _head_lines(heads: List[Tuple[str, List[str]]]) -> List[str]:
    lines = [f'{head}{": " + pair if pair else ""}' for head, pairs in heads for pair in pairs or [None]]
    if len(lines) > _HEAD_LINES:
        lines = [f'{head}: {"; ".join(pairs)}' if pairs else head for head, pairs in heads]
    if len(lines) > _HEAD_LINES:
        lines = [*lines[:_HEAD_LINES - 1], f'and {len(lines) - _HEAD_LINES + 1} more heads']
    return lines


def _weight(head) -> str:
    schedule = head.schedule
    return f'{schedule.initial:g}' if schedule.is_constant else f'{schedule.initial:g}, {schedule.type} schedule'


def _describe(network: nn.Module) -> str:
    main = getattr(network, 'backbone', getattr(network, 'model', network))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f'{type(main).__name__}, {parameters:,} parameters'


def _data(runner, size: Tuple[int, int]) -> str:
    loader = runner.train_dataloader
    line = f'Data: {len(loader.dataset):,} training images of {size[0]} x {size[1]}, batch {loader.batch_size}'
    processes = f' on each of {runner.world_size} processes' if runner.world_size > 1 else ''
    validation = f', {len(runner.val_dataloader.dataset):,} validation images' if runner.val_loop is not None else ''
    return line + processes + validation


def _setting(runner) -> str:
    optimizer: Optimizer = runner.optim_wrapper.optimizer
    by_iteration = isinstance(runner.train_loop, IterBasedTrainLoop)
    count, unit = (runner.max_iters, 'iteration') if by_iteration else (runner.max_epochs, 'epoch')
    length = f'{count} {unit}{"s" if count > 1 else ""}'
    device = next(runner.model.parameters()).device
    options: Dict[str, float] = optimizer.param_groups[0]
    precision = _PRECISIONS.get(type(runner.optim_wrapper).__name__, type(runner.optim_wrapper).__name__)
    return f'Setting: {length}, {type(optimizer).__name__} lr {options["lr"]:g}, {precision}, {device}'
