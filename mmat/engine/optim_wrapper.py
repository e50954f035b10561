"""Mixed precision training."""
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper

from mmat.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """OptimWrapper that trains under bfloat16 autocast on any device. mmengine's AmpOptimWrapper refuses the CPU.

    bfloat16 has the range of float32 and needs no loss scaling. Weights, gradients of weights, the optimizer and
    attention maps stay float32.

    Args:
        **kwargs: Arguments of mmengine's OptimWrapper.
    """

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
