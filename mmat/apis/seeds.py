"""Seeds of one config that are trained on the same batches, one by one or together."""
import copy
from collections import Counter
from pathlib import Path
from typing import Dict, Sequence

from mmengine.config import Config
from mmengine.runner import Runner

from mmat.engine.round_robin import import_greenlet
from mmat.engine.seed_group import train_together
from mmat.models.build import network_config
from mmat.utils.checkpoint import read_checkpoint
from mmat.utils.work_dirs import common_checkpoint


def set_batch_seed(config: Config, seed: int) -> None:
    """Let order and augmentation of a run's batches follow from a seed of their own, apart from the run's.

    Args:
        config (Config): Changed in place: the training sampler's seed and the data preprocessor's.
        seed (int): At least 0.

    Raises:
        ValueError: A config whose batches would still depend on the run's seed.
    """
    if seed < 0:
        raise ValueError(f'--batch-seed must be at least 0, got {seed}')
    loader = config.train_dataloader
    if loader.get('num_workers'):
        raise ValueError(f'--batch-seed needs train_dataloader.num_workers=0, got {loader.num_workers}: workers draw '
                         'random numbers for themselves')
    if _has_pipeline(loader.dataset):
        raise ValueError('--batch-seed needs a dataset whose images are augmented by the batch, by '
                         f'mmat.BatchPreprocessor: the pipeline of {loader.dataset.get("type")} draws for itself')
    if isinstance(config.model.get('student'), str):
        config.model.student = network_config(config.model.student)
    # The first of them counts.
    owners = config.model.get('student') or {}, config.model, config
    found = [owner['data_preprocessor'] for owner in owners if owner.get('data_preprocessor')]
    if not found or found[0].get('type') != 'mmat.BatchPreprocessor':
        name = (found[0].get('type') if found else None) or "mmpretrain's own"
        raise ValueError(f'--batch-seed needs a data_preprocessor that has a seed: mmat.BatchPreprocessor, not {name}')
    loader.sampler.seed = seed
    for preprocessor in found:
        if preprocessor.get('type') == 'mmat.BatchPreprocessor':
            preprocessor['seed'] = seed


def _has_pipeline(value) -> bool:
    """Whether a dataset, or one inside it, has transforms."""
    if isinstance(value, dict):
        return bool(value.get('pipeline')) or any(map(_has_pipeline, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_pipeline, value))


def check_seeds(config: Config, seeds: Sequence[int]) -> None:
    """Refuse what several seeds in one process cannot be.

    Args:
        config (Config): Complete, ``launcher`` included.
        seeds (Sequence[int]): The seeds.

    Raises:
        ValueError: One of them several times, several processes, ``compile``, ``resume`` in the config, or checkpoints
            of which only the last is kept.
        ImportError: greenlet is not installed.
    """
    import_greenlet()
    twice = [seed for seed, times in Counter(seeds).items() if times > 1]
    if twice:
        raise ValueError(f'--seeds has {twice[0]} more than once')
    if config.get('launcher', 'none') != 'none':
        raise ValueError('--seeds trains in one process; with --launcher, train each --seed with the same --batch-seed')
    if config.get('compile'):
        raise ValueError('--seeds cannot train with compile, which does not know of shared batches; leave it out')
    if config.get('resume'):
        raise ValueError('with --seeds, resume with --resume in place of resume=True in the config: each seed has a '
                         'checkpoint of its own')
    if (config.get('default_hooks') or {}).get('checkpoint', {}).get('max_keep_ckpts') == 1:
        raise ValueError('--seeds needs default_hooks.checkpoint.max_keep_ckpts of at least 2: when it is killed, some '
                         'seeds have saved one epoch more than others')


def train_seeds(config: Config, seeds: Sequence[int], resume: bool = False) -> Dict[int, Runner]:
    """Train a config with several seeds, in the folders ``seed<k>`` of its ``work_dir``, together.

    Args:
        config (Config): Complete, with the setting for this machine and the batch seed, see :func:`set_batch_seed`.
        seeds (Sequence[int]): The seeds, see :func:`check_seeds`.
        resume (bool): Go on from the last checkpoints that all have, where there are any. Defaults to False.

    Returns:
        dict[int, Runner]: By seed.

    Raises:
        ValueError: Folders to resume that have no checkpoint in common.
        BaseException: As :func:`mmat.engine.seed_group.train_together`.
    """
    folders = {seed: Path(config.work_dir) / f'seed{seed}' for seed in seeds}
    checkpoint = common_checkpoint(folders.values()) if resume else None
    if checkpoint:
        for folder in folders.values():
            read_checkpoint(folder / checkpoint)  # says so now if it cannot be read

    def make(seed: int) -> Runner:
        own = copy.deepcopy(config)
        own.work_dir = str(folders[seed])
        own.randomness = {**config.get('randomness', {}), 'seed': seed}
        # Loggers and message hubs live by this name.
        name = config.get('experiment_name') or (Path(config.filename).stem if config.filename else 'run')
        own.experiment_name = f'{name}_seed{seed}'
        if checkpoint:
            own.resume, own.load_from = True, str(folders[seed] / checkpoint)
        return Runner.from_cfg(own)

    return train_together(seeds, make)
