"""Learning rates and the weights of transfer heads over a training that is not run."""
import logging
import math
import tempfile
from collections import Counter
from typing import Dict, List, Optional

import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner

from mmat.models import Distiller

from .samples import build_dataset

PARAMETERS = dict(lr='learning rate', momentum='momentum', wd='weight decay')


class _Length(list):
    """Stands for a data loader of which only the length matters."""
    dataset = None


def iterations_per_epoch(config: Config, dataset_size: Optional[int] = None, processes: int = 1) -> int:
    """Batches that each process gets of an epoch of the training set.

    Args:
        config (Config): With ``train_dataloader``.
        dataset_size (int, optional): Images in the training set. Defaults to None: it is read.
        processes (int): How many share them. Defaults to 1.

    Raises:
        FileNotFoundError: ``dataset_size`` is not given and the dataset is not there.
    """
    if dataset_size is None:
        try:
            dataset_size = len(build_dataset(config, 'train'))
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{error}. Or give the number of its images: --dataset-size') from error
    loader = config.train_dataloader
    batches = math.ceil(dataset_size / processes) / loader.batch_size
    return max(1, math.floor(batches) if loader.get('drop_last') else math.ceil(batches))


def simulate_schedules(config: Config, length: int, parameter: str = 'lr') -> dict:
    """Step a config's optimizer and schedulers, mmengine's own, through the whole training without a forward pass.

    Args:
        config (Config): Complete; neither datasets nor a teacher's weights are read.
        length (int): Iterations of an epoch, see :func:`iterations_per_epoch`.
        parameter (str): Of :data:`PARAMETERS`, what of the optimizer to record. Defaults to 'lr'.

    Returns:
        dict: ``optimizer``: label of a group of weights -> values (groups that never differ are one); ``heads``: name
        of a transfer head -> values of its weight, for those whose weight changes; both arrays of shape
        (iterations, ); ``by_epoch``, whether there are epochs.
    """
    config = config.copy()
    with tempfile.TemporaryDirectory() as work_dir:
        runner = Runner(
            model=config.model, work_dir=work_dir, train_dataloader=_Length(range(length)), train_cfg=config.train_cfg,
            optim_wrapper=config.optim_wrapper, log_level=logging.ERROR, default_scope=config.get('default_scope'),
            visualizer=dict(type='Visualizer', vis_backends=None), experiment_name=work_dir)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        # Weights whose settings begin alike stay alike: one group of each kind tells of all.
        optimizer = runner.optim_wrapper.optimizer
        kinds = Counter(_settings(group) for group in optimizer.param_groups)
        optimizer.param_groups = list({_settings(group): group for group in optimizer.param_groups}.values())
        groups, counts = optimizer.param_groups, [kinds[_settings(group)] for group in optimizer.param_groups]
        schedulers = runner.build_param_scheduler(config.param_scheduler) if config.get('param_scheduler') else []
    by_epoch = config.train_cfg.get('by_epoch', 'Epoch' in str(config.train_cfg.get('type')))
    total, epoch_length = runner.max_iters, length if by_epoch else runner.max_iters
    values = np.empty((len(groups), total))
    by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    for scheduler in schedulers:
        scheduler.optimizer._global_step = 1  # they warn where the optimizer does not step, as here
    for start in range(0, total, epoch_length):
        # Whatever does not step with the iterations keeps its value over an epoch.
        for index in range(start, min(start + epoch_length, total)) if by_iteration else [start]:
            values[:, index:start + epoch_length] = [[_read(group, parameter)] for group in groups]
            for scheduler in by_iteration:
                scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()
    return dict(optimizer=_distinct(values, counts), heads=_head_weights(runner, length, by_epoch), by_epoch=by_epoch)


def _read(group: dict, parameter: str) -> float:
    if parameter == 'momentum':
        return group['momentum'] if 'momentum' in group else group.get('betas', (math.nan, ))[0]
    return group['weight_decay' if parameter == 'wd' else parameter]


def _settings(group: dict) -> tuple:
    return tuple((key, str(value)) for key, value in sorted(group.items()) if key != 'params')


def _distinct(values: np.ndarray, counts: List[int]) -> Dict[str, np.ndarray]:
    """Curves by how many groups of weights have them; each of ``values`` stands for so many. One label says nothing."""
    curves, which = np.unique(values, axis=0, return_inverse=True)
    if len(curves) == 1:
        return {'all weights': curves[0]}
    numbers = np.bincount(which.reshape(-1), weights=counts).astype(int)
    return {f'{number} of {sum(counts)} groups of weights, to begin with {curve[0]:g}': curve
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
