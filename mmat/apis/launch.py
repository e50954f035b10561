"""What the command lines share: arguments, devices, processes, messages."""
import argparse
import inspect
import os
import re
import subprocess
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import Callable, Optional

import torch
import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmat.utils.cpu import keep_freed_memory
from mmat.utils.zoo import find_config


class SettingsAction(DictAction):
    """mmengine's ``KEY=VALUE`` arguments, but a path keeps its spaces, and its commas where it exists."""

    @staticmethod
    def _parse_iterable(val: str):
        text = val.strip('\'"')
        is_path = ' ' in text and ',' not in text and not text.startswith(('(', '['))
        return text if is_path or (os.sep in text and os.path.exists(text)) else DictAction._parse_iterable(val)


def parse_common_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add what training and testing have in common, and parse."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default: work_dirs/<config name>')
    parser.add_argument('--fp32', action='store_true',
                        help='on the CPU: plain fp32, without the recommended setting (bf16 autocast, channels_last)')
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction, metavar='KEY=VALUE',
                        help='override settings of the config, such as model.teacher.checkpoint=PATH')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes the one or the other, by version; torchrun sets LOCAL_RANK itself.
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config of a command line, its ``--work-dir``, ``--cfg-options`` and ``--launcher`` in it."""
    config = Config.fromfile(find_config(args.config))
    config.launcher = args.launcher
    merge_options(config, args.cfg_options)
    if args.work_dir:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    hooks = config.get('custom_hooks') or []
    if not isinstance(hooks, list) or not all(isinstance(hook, dict) for hook in hooks):
        # From a command line they arrive as text.
        raise ValueError('custom_hooks must be a list of dicts, which the command line cannot give; there use '
                         f'--cfg-options default_hooks.NAME.type=TYPE for each. Got {hooks!r}')
    return config


# What a run reads of its config, whether the config has it or not.
_SETTINGS = {*inspect.signature(Runner.__init__).parameters, 'activation_checkpointing', 'compile', 'custom_imports',
             'find_unused_parameters', 'model_wrapper_cfg', 'sync_bn'} - {'self', 'cfg'}


def merge_options(config: Config, options: Optional[dict]) -> None:
    """Put a command line's ``--cfg-options`` into a config.

    Raises:
        ValueError: One is of a setting that neither the config has nor a run reads; the message names the closest.
    """
    for key in options or {}:
        name = key.split('.')[0]
        if name not in config and name not in _SETTINGS:
            close = get_close_matches(name, {*config, *_SETTINGS}, n=3, cutoff=0.5)
            raise ValueError(f'--cfg-options: the config has no {name!r}' +
                             (f'; the closest are {", ".join(close)}' if close else ''))
    config.merge_from_dict(options or {})


def apply_cpu_setting(config: Config) -> None:
    """The recommended setting where there is no accelerator: bf16 autocast, channels_last, an allocator that keeps.

    ``benchmarks/cpu_setting.py`` measures what each brings. Each applies where the config leaves it open;
    validation stays fp32.

    Args:
        config (Config): Changed in place: ``optim_wrapper.type`` and ``data_preprocessor.channels_last``.
    """
    applied = []
    if config.get('optim_wrapper') and config.optim_wrapper.get('type', 'OptimWrapper') == 'OptimWrapper':
        config.optim_wrapper.type = 'mmat.AutocastOptimWrapper'
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
    print_log(f'No accelerator: using the recommended CPU setting ({", ".join(applied)}). '
              '--fp32 for the plain fp32 reference.', 'current')


def build_runner(config: Config, fp32: bool = False) -> Runner:
    """A Runner for this machine, see :func:`prepare`."""
    prepare(config, fp32)
    return Runner.from_cfg(config)


def prepare(config: Config, fp32: bool = False) -> None:
    """Fit a config to this machine: on the CPU, the recommended setting and gloo between processes.

    Args:
        config (Config): Complete, ``launcher`` included; changed in place.
        fp32 (bool): Keep the config's precision and layout on the CPU. Defaults to False.
    """
    if not torch.cuda.is_available():
        if not fp32:
            apply_cpu_setting(config)
        if config.launcher != 'none':
            _init_gloo(config.launcher)
            # mmengine would give DDP the index of a device.
            config.model_wrapper_cfg = dict(
                type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)


# Rank, world size and local rank, as each launcher tells them.
_RANK_VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'))


def _init_gloo(launcher: str) -> None:
    """Join the processes of a launcher on machines without accelerators, where mmengine's own way asks for a GPU."""
    for name, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), _RANK_VARIABLES[launcher]):
        if source not in os.environ:
            raise ValueError(f'--launcher {launcher} needs the environment variable {source}, which the launcher sets: '
                             'start through tools/dist_train.sh or tools/slurm_train.sh')
        os.environ[name] = os.environ[source]
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ and 'SLURM_NODELIST' in os.environ:
        nodes = subprocess.run(['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']],
                               check=True, capture_output=True, text=True).stdout
        os.environ['MASTER_ADDR'] = nodes.split()[0]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    dist.init_process_group('gloo')


# Where mmpretrain says plainly what is wrong: packages that are missing, metrics that cannot be.
_CLEAR = ('mmpretrain/utils/dependency.py', 'mmpretrain/evaluation/')


def command_line(main: Callable[[], Optional[int]]) -> None:
    """Run a command; what mmat has to say about a mistake of its user is one message, not a traceback.

    Errors from anywhere else keep their traceback: they are bugs, or want one. Of several seeds in one process the
    message names the one whose it is.
    """
    try:
        status = main()
        _leave_together()
        sys.exit(status)
    except (ValueError, TypeError, KeyError, OSError, RuntimeError, ImportError) as error:
        message = _closest_type(str(error)) or _closest_argument(str(error))
        if message is None:
            origin, message = _in_worker(str(error)) or (traceback.extract_tb(error.__traceback__)[-1].filename, error)
            ours = Path(__file__).resolve().parents[1], Path(sys.argv[0]).resolve().parent
            theirs = any(part in Path(origin).as_posix() for part in _CLEAR)
            if isinstance(error, FileNotFoundError) and error.filename is not None:
                message = (f"there is no {str(error.filename)!r}. Where it is a dataset's, its place is --cfg-options "
                           'train_dataloader.dataset.data_root=PATH, likewise val_dataloader and test_dataloader')
            elif not theirs and not any(Path(origin).resolve().is_relative_to(folder) for folder in ours):
                raise
        whose = f'seed {error.seed}: ' if hasattr(error, 'seed') else ''
        sys.exit(f'{Path(sys.argv[0]).name}: error: {whose}{message}')


def _in_worker(message: str) -> Optional[tuple]:
    """Where an error of a loader's worker comes from, and what it says; torch gives its traceback as the message."""
    if not re.match(r'Caught \w+ in DataLoader worker', message):
        return None
    files = re.findall(r'^  File "(.*)", line \d+', message, re.MULTILINE)
    # What comes after the last line of code: the type and its message.
    text = re.split(r'^  .*\n', message, flags=re.MULTILINE)[-1].strip()
    return (files[-1], text.partition(': ')[2]) if files else None


def _leave_together() -> None:
    """Dissolve the process group when all are done: gloo aborts a process that exits before the others have."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _closest_type(message: str) -> Optional[str]:
    """One line for mmengine's complaint about a type that no registry has."""
    words = message.strip('"\'').split(' is not in the ')
    if len(words) != 2:
        return None
    close = get_close_matches(words[0], _known_types(), n=3, cutoff=0.5)
    return f'there is no type {words[0]!r}' + (f'; the closest are {", ".join(close)}' if close else '')


def _closest_argument(message: str) -> Optional[str]:
    """One line for Python's complaint about an argument that a type of a config does not take, or lacks."""
    missing = re.fullmatch(r'(\w+)\.__init__\(\) missing \d+ required positional arguments?: (.*)', message)
    if missing:
        return f'{missing[1]} needs {missing[2].replace(chr(39), "`")}'
    match = re.fullmatch(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    if match is None:
        return None
    name, argument = match.groups()
    takes = {parameter for known, cls in _known_types().items() if known.split('.')[-1] == name
             for parameter in inspect.signature(cls).parameters}
    close = get_close_matches(argument, takes, n=3, cutoff=0.4) or sorted(takes)
    return f'{name} takes no argument {argument!r}' + (f'; the closest are {", ".join(close)}' if close else '')


def _known_types() -> dict:
    """Every registered type, by its name with its scope."""
    from mmengine import registry
    roots = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
    return {
        name if child is root else f'{child.scope}.{name}': cls
        for root in roots for child in (root, *root.children.values()) for name, cls in child.module_dict.items()
    }
