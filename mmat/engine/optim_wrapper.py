"""Precision."""
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper

from mmat.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Trains under bfloat16 autocast on any device, the CPU too, where mmengine's AmpOptimWrapper refuses.

    bfloat16 has float32's range, so there is no loss scaling. Weights, their gradients and the optimizer stay float32;
    so do the attention maps.

    Args:
        **kwargs: mmengine's OptimWrapper's.
    """

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
