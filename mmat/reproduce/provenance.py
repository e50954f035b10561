"""Code, hardware and precision that a measured number was obtained with."""
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Optional

import mmat
from mmat.utils.zoo import zoo_root

_PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmpretrain', 'numpy')
_PRECISIONS = dict(AmpOptimWrapper='mixed precision', AutocastOptimWrapper='bf16 autocast')


def describe_code() -> dict:
    """Return ``versions`` and ``commit``: the checkout's, with '+' if files have changed, None outside a checkout."""
    return dict(commit=_commit(), versions=dict(
        mmat=mmat.__version__, python=platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES}))


def _commit() -> Optional[str]:
    def git(*arguments):
        return subprocess.run(['git', '-C', str(zoo_root()), *arguments], check=True, capture_output=True,
                              text=True).stdout.strip()
    try:
        # mmat may be installed inside an unrelated repository.
        if Path(git('rev-parse', '--show-toplevel')).resolve() != zoo_root().resolve():
            return None
        changed = git('status', '--porcelain', '--untracked-files=no', '--', 'mmat', 'configs', 'tools', 'recipes')
        return git('rev-parse', '--short=12', 'HEAD') + ('+' if changed else '')
    except (OSError, subprocess.CalledProcessError):
        return None


def describe_hardware(processes: int = 1) -> str:
    """Return number and name of the GPUs of a training, or of the CPU cores available to this process."""
    if shutil.which('nvidia-smi'):
        import torch  # takes seconds
        if torch.cuda.is_available():
            return f'{processes} x {torch.cuda.get_device_name()}'
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{cores} core{"s" if cores > 1 else ""} of {_processor()}'


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe_precision(work_dir: Path) -> str:
    """Return the precision of a training, such as 'bf16 autocast', from the config dumped in its work directory."""
    from mmengine.config import Config
    dumped = sorted(work_dir.glob('*/vis_data/config.py'))
    wrapper = Config.fromfile(dumped[-1]).optim_wrapper.get('type', 'OptimWrapper') if dumped else 'OptimWrapper'
    return _PRECISIONS.get(str(wrapper).split('.')[-1], 'fp32')
