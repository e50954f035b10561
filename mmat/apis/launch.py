"""Shared parts of the command lines: arguments, configs, device settings and error messages."""
import argparse
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Callable, Optional

import torch
import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.config.utils import ConfigParsingError
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmat.errors import ConfigError, MissingFileError, UserError, did_you_mean
from mmat.utils.cpu import has_fast_bf16, keep_freed_memory
from mmat.utils.zoo import find_config

from .config_errors import SETTINGS, check_keys, check_settings, find_config_error


class SettingsAction(DictAction):
    """Parse ``KEY=VALUE`` arguments as mmengine does, but keep a path's spaces, and its commas if the path exists."""

    @staticmethod
    def _parse_iterable(val: str):
        text = val.strip('\'"')
        is_path = ' ' in text and ',' not in text and not text.startswith(('(', '['))
        return text if is_path or (os.sep in text and os.path.exists(text)) else DictAction._parse_iterable(val)


def parse_common_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the arguments that training and testing share, and parse."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default: work_dirs/<config name>')
    parser.add_argument('--fp32', action='store_true',
                        help='on the CPU: plain fp32, without the recommended setting (bf16 autocast, channels_last)')
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction, metavar='KEY=VALUE',
                        help='override settings of the config, such as model.teacher.checkpoint=PATH')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes one of the two spellings, by version; torchrun sets LOCAL_RANK itself.
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace, mode: str = 'train') -> Config:
    """Load the config of a command line, with its ``--work-dir``, ``--cfg-options`` and ``--launcher``.

    Args:
        args (argparse.Namespace): From :func:`parse_common_args`.
        mode (str): 'train' or 'test', which settings the config must have. Defaults to 'train'.

    Raises:
        ConfigError: A setting is missing, unknown or has the wrong type.
        MissingFileError: The config or one of its bases does not exist.
    """
    config = read_config(args.config, args.cfg_options)
    config.launcher = args.launcher
    if args.work_dir:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    hooks = config.get('custom_hooks') or []
    if not isinstance(hooks, list) or not all(isinstance(hook, dict) for hook in hooks):
        # From a command line they arrive as text.
        raise ConfigError('custom_hooks must be a list of dicts, which the command line cannot give. Use --cfg-options '
                          f'default_hooks.NAME.type=TYPE for each hook instead. Got {hooks!r}.')
    check_settings(config, mode)
    return config


def read_config(name: str, options: Optional[dict] = None) -> Config:
    """Read a config, apply ``--cfg-options``, and check its top-level keys.

    Args:
        name (str): A config file, or a name of the model zoo.
        options (dict, optional): Setting -> value. Defaults to None.

    Raises:
        ConfigError: The config has a syntax error or an unknown key, or an option does not fit it.
        MissingFileError: The config or one of its bases does not exist.
    """
    path = find_config(name)
    try:
        config = Config.fromfile(path)
    except SyntaxError as error:
        raise ConfigError(f'Syntax error in config {path!r}, line {error.lineno}: {error.msg}.') from error
    except (ConfigParsingError, FileNotFoundError) as error:
        raise MissingFileError(f'Cannot read config {path!r}: {error}') from error
    check_keys(config)
    merge_options(config, options)
    return config


def merge_options(config: Config, options: Optional[dict]) -> None:
    """Put a command line's ``--cfg-options`` into a config.

    Raises:
        ConfigError: Neither the config nor a run has the setting; the message names the closest. Or an option goes
            below a value that has no parts, or beyond the end of a list.
    """
    for key in options or {}:
        name = key.split('.')[0]
        if name not in config and name not in SETTINGS:
            raise ConfigError(f'--cfg-options: unknown setting {name!r}.' +
                              did_you_mean(name, {*config, *SETTINGS}, cutoff=0.5))
    try:
        config.merge_from_dict(options or {})
    except (KeyError, TypeError) as error:
        raise ConfigError(f'--cfg-options: {error.args[0]}') from error


def apply_cpu_setting(config: Config) -> None:
    """Apply the recommended setting for machines without an accelerator.

    It is bf16 autocast for training where the CPU has native bf16, channels_last, and an allocator that keeps freed
    memory. Each part applies only where the config leaves it open; validation stays in fp32.
    ``benchmarks/cpu_setting.py`` measures each part.

    Args:
        config (Config): Changed in place: ``optim_wrapper.type`` and ``data_preprocessor.channels_last``.
    """
    applied = []
    wrapper = config.get('optim_wrapper')
    if wrapper and wrapper.get('type', 'OptimWrapper') == 'OptimWrapper' and has_fast_bf16():
        wrapper.type = 'mmat.AutocastOptimWrapper'
        applied.append('bf16 autocast')
    model = config.model
    for owner in (config, model, model.get('student')):
        # A student may also be a zoo name.
        preprocessor = hasattr(owner, 'get') and owner.get('data_preprocessor') or {}
        if preprocessor.get('type') == 'mmat.BatchPreprocessor':
            preprocessor.setdefault('channels_last', True)
            applied += ['channels_last'] if 'channels_last' not in applied else []
    if keep_freed_memory():
        applied.append('an allocator that keeps freed memory')
    print_log(f'No accelerator found: using the recommended CPU setting ({", ".join(applied) or "nothing to change"}). '
              'Use --fp32 for plain fp32.', 'current')


def build_runner(config: Config, fp32: bool = False) -> Runner:
    """Build a Runner for this machine, see :func:`prepare`."""
    prepare(config, fp32)
    return Runner.from_cfg(config)


def prepare(config: Config, fp32: bool = False) -> None:
    """Adapt a config to this machine: without a GPU, the recommended CPU setting and gloo between processes.

    Args:
        config (Config): Complete, ``launcher`` included; changed in place.
        fp32 (bool): Keep the config's precision and layout on the CPU. Defaults to False.
    """
    if not torch.cuda.is_available():
        if not fp32:
            apply_cpu_setting(config)
        if config.launcher != 'none':
            _init_gloo(config.launcher)
            # mmengine would pass a device index to DDP.
            config.model_wrapper_cfg = dict(
                type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)


# Environment variables with rank, world size and local rank, by launcher.
_RANK_VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'))


def _init_gloo(launcher: str) -> None:
    """Join the process group over gloo; mmengine's own initialization needs a GPU."""
    for name, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), _RANK_VARIABLES[launcher]):
        if source not in os.environ:
            raise UserError(f'--launcher {launcher} needs the environment variable {source}, which the launcher sets. '
                            'Start with tools/dist_train.sh or tools/slurm_train.sh.')
        os.environ[name] = os.environ[source]
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ and 'SLURM_NODELIST' in os.environ:
        nodes = subprocess.run(['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']],
                               check=True, capture_output=True, text=True).stdout
        os.environ['MASTER_ADDR'] = nodes.split()[0]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    dist.init_process_group('gloo')


# tools/dist_run.py sets it to a folder, where each rank that fails writes its error.
ERROR_DIR = 'MMAT_ERROR_DIR'


def command_line(main: Callable[[], Optional[int]]) -> None:
    """Run a command and exit with its status.

    A :class:`mmat.errors.UserError`, or an error of mmengine that stands for one (see
    ``mmat.apis.config_errors.find_config_error``), ends the command with one line. Every other exception keeps its
    traceback. If several seeds run in one process, the line names the seed that failed.
    """
    try:
        status = main()
        _leave_together()
    except Exception as error:
        user_error = error if isinstance(error, UserError) else find_config_error(error)
        if user_error is None:
            _write_error(traceback.format_exc())
            raise
        seed = f'seed {error.seed}: ' if hasattr(error, 'seed') else ''
        line = f'{Path(sys.argv[0]).name}: error: {seed}{user_error.one_line()}'
        _write_error(f'{line}\n')
        sys.exit(line)
    sys.exit(status)


def _write_error(text: str) -> None:
    if ERROR_DIR in os.environ:
        Path(os.environ[ERROR_DIR], os.environ.get('RANK', '0')).write_text(text)


def _leave_together() -> None:
    """Leave the process group when all ranks are done: gloo aborts a process that exits before the others."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
