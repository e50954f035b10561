"""Learning rates and weights of transfer heads over a training, computed without running it."""
import logging
import math
import tempfile
from collections import Counter
from typing import Dict, List, Optional

import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner

from mmat.errors import MissingFileError
from mmat.models import Distiller

from .samples import build_dataset

PARAMETERS = dict(lr='learning rate', momentum='momentum', wd='weight decay')


class _DummyLoader(list):
    """A data loader of a given length, without data."""
    dataset = None


def iterations_per_epoch(config: Config, dataset_size: Optional[int] = None, processes: int = 1) -> int:
    """Return the number of batches per epoch in each process.

    Args:
        config (Config): Config with ``train_dataloader``.
        dataset_size (int, optional): Number of training images. Defaults to None: the dataset is built.
        processes (int): Number of processes that share the images. Defaults to 1.

    Raises:
        MissingFileError: ``dataset_size`` is None and the dataset does not exist.
    """
    if dataset_size is None:
        try:
            dataset_size = len(build_dataset(config, 'train'))
        except FileNotFoundError as error:
            raise MissingFileError(f'{str(error).rstrip(".")}. Without the data, set --dataset-size.') from error
    loader = config.train_dataloader
    batches = math.ceil(dataset_size / processes) / loader.batch_size
    return max(1, math.floor(batches) if loader.get('drop_last') else math.ceil(batches))


def simulate_schedules(config: Config, length: int, parameter: str = 'lr') -> dict:
    """Step a config's optimizer and schedulers through the whole training without forward passes.

    Args:
        config (Config): A complete config. Neither datasets nor a teacher's weights are read.
        length (int): Iterations per epoch, see :func:`iterations_per_epoch`.
        parameter (str): Optimizer parameter to record, a key of :data:`PARAMETERS`. Defaults to 'lr'.

    Returns:
        dict: ``optimizer``: label of parameter groups -> values, one curve for groups with equal values. ``heads``:
        name of a transfer head -> its weight, for heads whose weight changes. Values are arrays of shape
        (iterations, ). ``by_epoch``: True if the training has epochs.
    """
    config = config.copy()
    with tempfile.TemporaryDirectory() as work_dir:
        runner = Runner(
            model=config.model, work_dir=work_dir, train_dataloader=_DummyLoader(range(length)),
            train_cfg=config.train_cfg, optim_wrapper=config.optim_wrapper, log_level=logging.ERROR,
            default_scope=config.get('default_scope'), experiment_name=work_dir,
            visualizer=dict(type='Visualizer', vis_backends=None))
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        # Parameter groups with equal initial settings stay equal, so one of each kind is simulated.
        optimizer = runner.optim_wrapper.optimizer
        kinds = Counter(_group_settings(group) for group in optimizer.param_groups)
        optimizer.param_groups = list({_group_settings(group): group for group in optimizer.param_groups}.values())
        groups, counts = optimizer.param_groups, [kinds[_group_settings(group)] for group in optimizer.param_groups]
        schedulers = runner.build_param_scheduler(config.param_scheduler) if config.get('param_scheduler') else []
    by_epoch = config.train_cfg.get('by_epoch', 'Epoch' in str(config.train_cfg.get('type')))
    total, epoch_length = runner.max_iters, length if by_epoch else runner.max_iters
    values = np.empty((len(groups), total))
    by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    for scheduler in schedulers:
        scheduler.optimizer._global_step = 1  # they warn if the optimizer has not stepped
    for start in range(0, total, epoch_length):
        # Without schedulers by iteration, values are constant within an epoch.
        for index in range(start, min(start + epoch_length, total)) if by_iteration else [start]:
            values[:, index:start + epoch_length] = [[_parameter_value(group, parameter)] for group in groups]
            for scheduler in by_iteration:
                scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()
    return dict(optimizer=_unique_curves(values, counts), heads=_head_weights(runner, length, by_epoch),
                by_epoch=by_epoch)


def _parameter_value(group: dict, parameter: str) -> float:
    if parameter == 'momentum':
        return group['momentum'] if 'momentum' in group else group.get('betas', (math.nan, ))[0]
    return group['weight_decay' if parameter == 'wd' else parameter]


def _group_settings(group: dict) -> tuple:
    return tuple((key, str(value)) for key, value in sorted(group.items()) if key != 'params')


def _unique_curves(values: np.ndarray, counts: List[int]) -> Dict[str, np.ndarray]:
    """Merge equal curves and label each with its number of parameter groups; ``counts`` has these for ``values``."""
    curves, indices = np.unique(values, axis=0, return_inverse=True)
    if len(curves) == 1:
        return {'all parameters': curves[0]}
    numbers = np.bincount(indices.reshape(-1), weights=counts).astype(int)
    return {f'{number} of {sum(counts)} parameter groups, initially {curve[0]:g}': curve
            for curve, number in zip(curves, numbers)}


def _head_weights(runner: Runner, length: int, by_epoch: bool) -> Dict[str, np.ndarray]:
    if not isinstance(runner.model, Distiller):
        return {}
    return {
        head.name: np.array([
            head.schedule.at(index // length if by_epoch else 0, index, runner.max_epochs, runner.max_iters)
            for index in range(runner.max_iters)])
        for head in runner.model.at_heads if not head.schedule.is_constant
    }
