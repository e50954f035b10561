"""Summary of a distillation run for the log."""
from typing import Dict, List, Optional, Tuple

import torch.nn as nn
from torch.optim import Optimizer

from mmat.models import Distiller
from mmat.models.build_checks import output_shapes
from mmat.models.distillers.teacher import layers_of

# Lines for heads and pairs; four more describe student, teacher, data and setting.
_HEAD_LINES = 4
_PRECISIONS = dict(OptimWrapper='fp32', AutocastOptimWrapper='bf16 autocast', AmpOptimWrapper='mixed precision')


def summarize_run(runner, distiller: Distiller, size: Tuple[int, int],
                  teacher_metrics: Optional[dict] = None) -> Tuple[List[str], List[str]]:
    """Describe a distillation run.

    Args:
        runner (Runner): Ready to train.
        distiller (Distiller): Its model, with the teacher prepared.
        size (tuple): Height and width of the training images.
        teacher_metrics (dict, optional): Metrics of the teacher on the validation set. Defaults to None.

    Returns:
        tuple: At most 8 lines, and a warning for each pair of layers with outputs of unequal height or width.
    """
    teacher = distiller.teacher.network if distiller.needs_teacher else None
    shapes = [output_shapes(network, layers_of(distiller.at_heads, owner), owner, size)
              for owner, network in (('student', distiller.student), ('teacher', teacher)) if network is not None]
    heads, warnings = [], []
    for head in distiller.at_heads:
        pairs = []
        for student_path, teacher_path in zip(head.student_paths, head.teacher_paths):
            student_shape, teacher_shape = shapes[0][student_path][1:], shapes[-1][teacher_path][1:]
            pair = f'{student_path} {tuple(student_shape)} <- {teacher_path} {tuple(teacher_shape)}'
            pairs.append(pair)
            if student_shape[-2:] != teacher_shape[-2:]:
                warnings.append(f'{head.name}: unequal sizes in the pair {pair}. Check that the stages correspond.')
        heads.append((f'{head.name}, weight {_weight(head)}', pairs))
    student_line = f'Student: {_describe(distiller.student)}'
    teacher_line = 'Teacher: none'
    if teacher is not None:
        metrics = ''.join(f', {name} {value:.2f}' for name, value in (teacher_metrics or {}).items())
        teacher_line = f'Teacher: {_describe(teacher)}{metrics}'
    return [student_line, teacher_line, _data(runner, size), _setting(runner), *_head_lines(heads)], warnings


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
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f'{type(getattr(network, "backbone", network)).__name__}, {parameters:,} parameters'


def _data(runner, size: Tuple[int, int]) -> str:
    loader = runner.train_dataloader
    line = f'Data: {len(loader.dataset):,} training images of {size[0]} x {size[1]}, batch {loader.batch_size}'
    processes = f' on each of {runner.world_size} processes' if runner.world_size > 1 else ''
    validation = f', {len(runner.val_dataloader.dataset):,} validation images' if runner.val_loop is not None else ''
    return line + processes + validation


def _setting(runner) -> str:
    optimizer: Optimizer = runner.optim_wrapper.optimizer
    length = f'{runner.max_epochs} epochs' if runner.max_epochs else f'{runner.max_iters} iterations'
    device = next(runner.model.parameters()).device
    options: Dict[str, float] = optimizer.param_groups[0]
    precision = _PRECISIONS.get(type(runner.optim_wrapper).__name__, type(runner.optim_wrapper).__name__)
    return f'Setting: {length}, {type(optimizer).__name__} lr {options["lr"]:g}, {precision}, {device}'
