"""Train several seeds of one config on the same batches, one by one or in one process."""
import copy
from collections import Counter
from pathlib import Path
from typing import Dict, Sequence

from mmengine.config import Config
from mmengine.runner import Runner

from mmat.engine.seed_group import train_together
from mmat.errors import ConfigError, UserError
from mmat.models.build import network_config
from mmat.utils.checkpoint import read_checkpoint
from mmat.utils.work_dirs import common_checkpoint


def set_batch_seed(config: Config, seed: int) -> None:
    """Seed the order and the augmentation of the batches separately from the run.

    Args:
        config (Config): Changed in place: the seeds of the training sampler and of the data preprocessor.
        seed (int): At least 0.

    Raises:
        ConfigError: The batches would still depend on the run's seed.
        UserError: ``seed`` is negative.
    """
    if seed < 0:
        raise UserError(f'--batch-seed must be at least 0, got {seed}.')
    loader = config.train_dataloader
    if loader.get('num_workers'):
        raise ConfigError(f'--batch-seed needs train_dataloader.num_workers=0, got {loader.num_workers}, because '
                          'workers draw their own random numbers.')
    if _has_pipeline(loader.dataset):
        raise ConfigError('--batch-seed needs augmentation by mmat.BatchPreprocessor, but '
                          f'{loader.dataset.get("type")} has a pipeline, which draws its own random numbers.')
    if isinstance(config.model.get('student'), str):
        config.model.student = network_config(config.model.student)
    # The first data_preprocessor is the one used.
    owners = config.model.get('student') or {}, config.model, config
    found = [owner['data_preprocessor'] for owner in owners if owner.get('data_preprocessor')]
    if not found or found[0].get('type') != 'mmat.BatchPreprocessor':
        name = (found[0].get('type') if found else None) or "mmpretrain's default"
        raise ConfigError(f'--batch-seed needs mmat.BatchPreprocessor as data_preprocessor, got {name}.')
    loader.sampler.seed = seed
    for preprocessor in found:
        if preprocessor.get('type') == 'mmat.BatchPreprocessor':
            preprocessor['seed'] = seed


def _has_pipeline(value) -> bool:
    """Whether the config of a dataset, or of one inside it, has transforms."""
    if isinstance(value, dict):
        return bool(value.get('pipeline')) or any(map(_has_pipeline, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_pipeline, value))


def check_seeds(config: Config, seeds: Sequence[int]) -> None:
    """Check that a config can train several seeds in one process.

    Args:
        config (Config): The complete config, including ``launcher``.
        seeds (Sequence[int]): The seeds.

    Raises:
        UserError: A seed is repeated, or a launcher is given.
        ConfigError: The config sets ``compile`` or ``resume``, or keeps only one checkpoint.
    """
    repeated = [seed for seed, times in Counter(seeds).items() if times > 1]
    if repeated:
        raise UserError(f'--seeds has {repeated[0]} more than once.')
    if config.get('launcher', 'none') != 'none':
        raise UserError('--seeds trains in one process. With --launcher, train one --seed at a time, all with the same '
                        '--batch-seed.')
    if config.get('compile'):
        raise ConfigError('--seeds does not support compile. Remove it from the config.')
    if config.get('resume'):
        raise ConfigError('--seeds does not support resume=True in the config. Use --resume, which finds the '
                          'checkpoint of each seed.')
    if (config.get('default_hooks') or {}).get('checkpoint', {}).get('max_keep_ckpts') == 1:
        raise ConfigError('--seeds needs default_hooks.checkpoint.max_keep_ckpts of at least 2, because some seeds may '
                          'have saved one epoch more than others when the run is killed.')


def train_seeds(config: Config, seeds: Sequence[int], resume: bool = False) -> Dict[int, Runner]:
    """Train several seeds of a config in one process, in the folders ``seed<k>`` of its ``work_dir``.

    Args:
        config (Config): The complete config, with the setting for this machine and a batch seed, see
            :func:`set_batch_seed`.
        seeds (Sequence[int]): The seeds, see :func:`check_seeds`.
        resume (bool): Continue from the last checkpoint that all seeds have, if any. Defaults to False.

    Returns:
        dict[int, Runner]: Runners by seed.

    Raises:
        CheckpointError: The folders to resume have no checkpoint in common, or it cannot be read.
        BaseException: See :func:`mmat.engine.seed_group.train_together`.
    """
    folders = {seed: Path(config.work_dir) / f'seed{seed}' for seed in seeds}
    checkpoint = common_checkpoint(list(folders.values())) if resume else None
    if checkpoint:
        for folder in folders.values():
            read_checkpoint(folder / checkpoint)  # fails now if it cannot be read

    def build_runner(seed: int) -> Runner:
        own = copy.deepcopy(config)
        own.work_dir = str(folders[seed])
        own.randomness = {**config.get('randomness', {}), 'seed': seed}
        # mmengine keeps loggers and message hubs by this name.
        name = config.get('experiment_name') or (Path(config.filename).stem if config.filename else 'run')
        own.experiment_name = f'{name}_seed{seed}'
        if checkpoint:
            own.resume, own.load_from = True, str(folders[seed] / checkpoint)
        return Runner.from_cfg(own)

    return train_together(seeds, build_runner)
